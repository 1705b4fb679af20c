/* A ZIP archive without compression: sounds hardly shrink. files: {name: Uint8Array}. */
window.dearZip = (files) => {
  const table = [...Array(256).keys()].map((n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
    return n >>> 0;
  });
  const crc = (bytes) => {
    let sum = ~0;
    for (const byte of bytes) sum = table[(sum ^ byte) & 255] ^ (sum >>> 8);
    return ~sum >>> 0;
  };
  const now = new Date();
  const time = (now.getHours() << 11) | (now.getMinutes() << 5) | (now.getSeconds() >> 1);
  const date = ((now.getFullYear() - 1980) << 9) | ((now.getMonth() + 1) << 5) | now.getDate();
  const fields = (...pairs) => {
    const view = new DataView(new ArrayBuffer(pairs.reduce((sum, [size]) => sum + size, 0)));
    let at = 0;
    for (const [size, value] of pairs) {
      if (size === 2) view.setUint16(at, value, true); else view.setUint32(at, value, true);
      at += size;
    }
    return new Uint8Array(view.buffer);
  };
  const parts = [], directory = [];
  let offset = 0;
  for (const [text, bytes] of Object.entries(files)) {
    const name = new TextEncoder().encode(text);
    const about = [[2, 20], [2, 0x800], [2, 0], [2, time], [2, date], [4, crc(bytes)], [4, bytes.length],
      [4, bytes.length], [2, name.length], [2, 0]];
    const header = fields([4, 0x04034b50], ...about);
    parts.push(header, name, bytes);
    directory.push(fields([4, 0x02014b50], [2, 20], ...about, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]), name);
    offset += header.length + name.length + bytes.length;
  }
  const size = directory.reduce((sum, each) => sum + each.length, 0);
  const count = Object.keys(files).length;
  const end = fields([4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, size], [4, offset], [2, 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
};
