import { type Run, seconds, tablesOf } from './report.ts';

const [WIDTH, LABEL, BAR, GAP, FIGURE] = [760, 220, 16, 4, 130];
const COLOURS = { ours: '#0969da', engine: '#8c959f', tool: '#d0d7de' } as const;

/** A bar for each engine in each table, as SVG; the longest of a table fills it. */
export function plot(run: Run): string {
  const parts: string[] = [];
  let y = 10;
  for (const { title, rows } of tablesOf(run)) {
    y += 24;
    parts.push(text(10, y, title, 'font-weight="bold"'));
    y += 8;
    const longest = Math.max(...rows.map((row) => row.wallSeconds));
    for (const { engine, wallSeconds, ratio } of rows) {
      const width = Math.max(1, (wallSeconds / longest) * (WIDTH - LABEL - FIGURE));
      const figure = `${seconds(wallSeconds)}${ratio === undefined ? '' : `  × ${ratio.toFixed(2)}`}`;
      parts.push(
        text(LABEL - 8, y + BAR - 4, engine.name, 'text-anchor="end"'),
        `<rect x="${LABEL}" y="${y}" width="${width.toFixed(1)}" height="${BAR}" fill="${COLOURS[engine.kind]}"/>`,
        text(LABEL + width + 6, y + BAR - 4, figure),
      );
      y += BAR + GAP;
    }
  }
  const style = 'font-family="sans-serif" font-size="12" fill="#1f2328"';
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${y + 14}" viewBox="0 0 ${WIDTH} ${y + 14}" ${style}>`,
    `<rect width="100%" height="100%" fill="#ffffff"/>`,
    ...parts,
    '</svg>\n',
  ].join('\n');
}

function text(x: number, y: number, content: string, more = ''): string {
  const safe = content.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
  return `<text x="${x.toFixed(1)}" y="${y}" ${more}>${safe}</text>`;
}
