/** Aligned columns, two blanks apart, a line each; the last column is not padded. Without rows: the header alone. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): readonly string[] {
  const all = [header, ...rows];
  const widths = header.map((_, column) => Math.max(...all.map((row) => widthOf(row[column] ?? ''))));
  return all.map((row) =>
    row
      .map((cell, column) =>
        column === row.length - 1 ? cell : cell + ' '.repeat((widths[column] ?? 0) - widthOf(cell)),
      )
      .join('  ')
      .trimEnd(),
  );
}

/** Characters, not UTF-16 units. Wide ones are not told apart: names of images are ASCII. */
function widthOf(text: string): number {
  return [...text].length;
}
