import { type ByteString, fromText, quote, toText } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';

/**
 * Who lets go of a hold: the process that took it (by disposal or death), whoever knows its name, or the first comer
 * who lets go of a mount that was found without any hold.
 */
export type HoldKind = 'process' | 'named' | 'adopted';

/** What a hold file says. */
export interface HoldRecord {
  readonly kind: HoldKind;
  /** Of a named hold. */
  readonly name?: string;
  readonly pid: number;
  /** Start time of the process in clock ticks since boot: with the pid, its identity. */
  readonly start: number;
  /** `mnt:[number]` of the process. */
  readonly namespace: string;
  readonly command: ByteString;
  /** RFC 3339. */
  readonly since: string;
  /** What is held: a mount, or a directory that needs none. */
  readonly on: 'mount' | 'directory';
  /** SELinux label of the mount. */
  readonly label?: string;
}

const KEYS = ['kind', 'name', 'pid', 'start', 'namespace', 'command', 'since', 'on', 'label'] as const;

/** `key value` a line; `%`, control characters in values as `%XX`. */
export function formatHold(hold: HoldRecord): ByteString {
  const lines = KEYS.filter((key) => hold[key] !== undefined).map((key) => `${key} ${encode(textOf(hold, key))}\n`);
  return lines.join('') as ByteString;
}

function textOf(hold: HoldRecord, key: (typeof KEYS)[number]): ByteString {
  return key === 'command' ? hold.command : fromText(String(hold[key]));
}

/** formatHold's inverse; lines with other keys are left alone. `where` names the file in the `corrupt` error. */
export function parseHold(text: ByteString, where: ByteString): HoldRecord {
  const values = new Map<string, ByteString>();
  for (const line of text.split('\n')) {
    const space = line.indexOf(' ');
    if (space > 0) values.set(line.slice(0, space), decode(line.slice(space + 1)));
  }
  const pid = Number(values.get('pid'));
  const start = Number(values.get('start'));
  const kind = oneOf(values.get('kind'), ['process', 'named', 'adopted'] as const);
  const on = oneOf(values.get('on'), ['mount', 'directory'] as const);
  const name = values.get('name');
  const label = values.get('label');
  if (
    kind === undefined ||
    on === undefined ||
    !(pid > 0) ||
    !(start >= 0) ||
    (kind === 'named') !== (name !== undefined)
  ) {
    const remedy = 'If the layer is not in use, remove that file';
    throw new StorageError('corrupt', `Cannot read the hold ${quote(where)}: it is damaged. ${remedy}`, {
      path: where,
      remedy,
    });
  }
  return {
    kind,
    on,
    pid,
    start,
    namespace: values.get('namespace') ?? '',
    command: values.get('command') ?? ('' as ByteString),
    since: values.get('since') ?? '',
    ...(name === undefined ? {} : { name: toText(name) }),
    ...(label === undefined ? {} : { label: toText(label) }),
  };
}

/** For people: `pid 12 ("node")`, `"box" since 2026-…`. */
export function describeHold(hold: HoldRecord): string {
  if (hold.kind === 'adopted') return 'a mount that was there before';
  if (hold.kind === 'named') return `the hold ${quote(fromText(hold.name ?? ''))}`;
  return `process ${hold.pid} (${quote(hold.command)})`;
}

function oneOf<T extends string>(value: string | undefined, known: readonly T[]): T | undefined {
  return known.find((one) => one === value);
}

function encode(value: ByteString): string {
  return value.replace(
    /[%\x00-\x1f\x7f]/g,
    (char) => `%${char.charCodeAt(0).toString(16).padStart(2, '0').toUpperCase()}`,
  );
}

function decode(value: string): ByteString {
  return value.replace(/%([0-9A-F]{2})/g, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  ) as ByteString;
}
