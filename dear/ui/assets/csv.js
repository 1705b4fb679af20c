/* Rows of texts and numbers as a CSV table. A cell that a spreadsheet would compute as a formula gets an apostrophe, as
   in dear/csv_tables.py. */
window.dearCsv = (rows) => {
  const isFormula = (text) => /^[=+@-]/.test(text.trimStart().slice(0, 1).normalize("NFKC")) || /^[\t\r\n]/.test(text);
  const cell = (value) => {
    const text = typeof value === "string" && isFormula(value) ? `'${value}` : String(value);
    return `"${text.replaceAll('"', '""')}"`;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
};
