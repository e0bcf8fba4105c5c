// Numbers as people paste them: CSV with or without a header and a column of dates, or one long list.

/**
 * Read rows of numbers.
 *
 * @param {string} text lines; cells between commas, semicolons, tabs or spaces
 * @param {string[]} names of the columns that are wanted
 * @returns {number[][]} rows in the order of `names`; NaN for an empty cell
 */
export function rowsOf(text, names) {
  const lines = text.split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
  if (!lines.length) throw new Error("Paste some numbers first.");
  const separator = [";", "\t", ","].find((each) => lines[0].includes(each)) ?? /\s+/;
  let cells = lines.map((line) => line.split(separator).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1")));
  if (names.length === 1 && cells.every((row) => row.every(isNumber))) {
    const narrow = cells.every((row) => row.length === 1);
    if (narrow || cells.length === 1) return cells.flat().map((cell) => [Number(cell)]);
  }
  let header = null;
  if (!cells[0].some(isNumber)) [header, ...cells] = cells;
  if (!cells.length) throw new Error("Below the header there is no row.");
  const at = columns(header, cells[0], names);
  return cells.map((row, i) => at.map((column) => {
    const cell = row[column] ?? "";
    if (cell === "") return NaN;
    if (!isNumber(cell)) throw new Error(`Row ${i + 1} holds “${cell.slice(0, 40)}”, which is no number.`);
    return Number(cell);
  }));
}

function columns(header, first, names) {
  const named = names.map((name) => header?.indexOf(name) ?? -1);
  if (named.every((column) => column >= 0)) return named;
  // Without names: the columns in order, behind one of dates where there is one.
  const start = first.length > names.length && !isNumber(first[0]) ? 1 : 0;
  if (first.length - start !== names.length) {
    const wanted = names.length === 1 ? "1 column" : `${names.length} columns`;
    throw new Error(`A row has ${first.length - start} columns of numbers; expected ${wanted}: ${names.join(", ")}.`);
  }
  return names.map((_, i) => start + i);
}

function isNumber(cell) {
  return cell !== "" && Number.isFinite(Number(cell));
}

/** Write rows as CSV with a header. */
export function csvOf(rows, names) {
  return [names.join(","), ...rows.map((row) => row.map((value) => value ?? "").join(","))].join("\n");
}

/** Return names for channels: those that are known, else c1, c2, ... */
export function namesOf(known, count) {
  return known?.length === count ? known : Array.from({ length: count }, (_, i) => `c${i + 1}`);
}
