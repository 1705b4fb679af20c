() => {
  let text = '';
  try { text = localStorage.audiodearModel ?? ''; } catch {}
  document.querySelector('.dear-tabs').inert = text !== '';
  return text;
}
