import type { Command, OptionSpecs } from './command.ts';
import { GROUPS } from './commands.ts';
import { GLOBAL_OPTIONS } from './globals.ts';
import { table } from './table.ts';

/** The page of one command. */
export function commandHelp(name: string, summary: string, command: Command): string {
  const own = Object.keys(command.options).length === 0 ? [] : ['', 'Options:', ...optionLines(command.options)];
  const globals = Object.fromEntries(Object.entries(GLOBAL_OPTIONS).filter(([key]) => !(key in command.options)));
  return [
    `Usage: layerstore ${name} ${command.usage}`.trimEnd(),
    '',
    `${summary[0]?.toUpperCase()}${summary.slice(1)}.`,
    ...own,
    '',
    'Options of all commands:',
    ...optionLines(globals),
  ].join('\n');
}

/** The page of all commands, or of those that begin with `word` (`driver`). */
export function overview(word?: string): string {
  const lines = [`Usage: layerstore [OPTION…] ${word === undefined ? '' : `${word} `}COMMAND …`];
  for (const { title, commands } of GROUPS) {
    const rows = [...commands].filter(([name]) => word === undefined || name.startsWith(`${word} `));
    if (rows.length === 0) continue;
    lines.push('', `${title}:`, ...aligned(rows.map(([name, { summary }]) => [name, summary])));
  }
  lines.push('', 'Options:', ...optionLines(GLOBAL_OPTIONS));
  lines.push('', 'Exit codes: 0 ok, 1 a check found a fault, 2 usage, 3 not found, 4 already exists or in use,');
  lines.push('  5 not supported or not possible now, 6 integrity, 7 registry or network, 8 no space, 9 permission,');
  lines.push('  70 internal, 130 interrupted.');
  return lines.join('\n');
}

function optionLines(options: OptionSpecs): readonly string[] {
  return aligned(
    Object.entries(options).map(([name, spec]) => {
      const short = spec.short === undefined ? '    ' : `-${spec.short}, `;
      return [`${short}--${name}${spec.kind === 'flag' ? '' : ` ${spec.value}`}`, spec.help];
    }),
  );
}

function aligned(rows: readonly (readonly [string, string])[]): readonly string[] {
  const [, ...lines] = table(['', ''], rows);
  return lines.map((line) => `  ${line}`);
}
