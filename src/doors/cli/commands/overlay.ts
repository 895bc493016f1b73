import { type ByteString, quote } from '../../../base/bytes.ts';
import type { RawMount } from '../../../mount/raw.ts';
import { parseJson } from '../arguments.ts';
import { recordOf } from '../change-lines.ts';
import { type Command, defineCommand, type Given, type OptionSpecs } from '../command.ts';
import type { Context } from '../context.ts';
import { checkDestination, noteTo, writeStream } from '../destination.ts';
import { jsonLine, pathFields } from '../json.ts';
import { UsageError } from '../parse.ts';

// The overlay differ on mounts that others made: no store and no driver.

const MOUNT = '{"type":"overlay","source":"overlay","options":["lowerdir=…","upperdir=…"]}';

const SIDES = {
  lower: { kind: 'list', value: 'JSON', help: `mount of what lies below (repeat for several): ${MOUNT}` },
  upper: { kind: 'list', value: 'JSON', help: 'mount of what is compared with it' },
} as const satisfies OptionSpecs;

const WALK = { kind: 'flag', help: 'compare both trees, whatever the mounts say of their layers' } as const;

interface Sides {
  readonly lower: readonly RawMount[];
  readonly upper: readonly RawMount[];
}

function sidesOf(given: Given<typeof SIDES>): Sides {
  if (given.upper.length === 0) throw new UsageError('--upper is missing');
  return {
    lower: given.lower.map((text) => parseMount(text, '--lower')),
    upper: given.upper.map((text) => parseMount(text, '--upper')),
  };
}

/** containerd's three fields, `source` and `options` as they may be left out there. */
function parseMount(json: ByteString, option: string): RawMount {
  const bad = (why: string): UsageError =>
    new UsageError(`${option} ${quote(json)} is not a mount: ${why}; write ${MOUNT}`);
  let value: unknown;
  try {
    value = parseJson(json);
  } catch {
    throw bad('it is not JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw bad('it is not an object');
  const { type, source = '', options = [], ...rest } = value as Readonly<Record<string, unknown>>;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined) throw bad(`it has a field ${quote(unknown as ByteString)}`);
  if (typeof type !== 'string' || type === '') throw bad('its type is not a word');
  if (typeof source !== 'string') throw bad('its source is not a text');
  if (!Array.isArray(options) || !options.every((one) => typeof one === 'string')) {
    throw bad('its options are not a list of texts');
  }
  return { type, source: source as ByteString, options: options as ByteString[] };
}

export const upperdir: Command = defineCommand({
  usage: '[--lower JSON]… --upper JSON',
  operands: [0, 0],
  options: SIDES,
  async run(context, given) {
    const { upperDirectory } = await import('../../../index.ts');
    const { lower, upper } = sidesOf(given);
    const path = upperDirectory(lower, upper);
    if (context.json) await context.out.line(jsonLine(pathFields(path)));
    else await context.out.lineBytes(path);
    return 0;
  },
});

export const changes: Command = defineCommand({
  usage: '[--lower JSON]… --upper JSON [--walk] [--renames]',
  operands: [0, 0],
  options: {
    ...SIDES,
    walk: WALK,
    renames: { kind: 'flag', help: 'a moved directory as one record with "from", where redirect_dir tells of it' },
  },
  async run(context, given) {
    const { upperChanges } = await import('../../../index.ts');
    const { lower, upper } = sidesOf(given);
    const options = {
      walk: given.walk,
      here: true,
      signal: context.signal,
      ...(given.renames ? { renames: 'collapse' as const } : {}),
    };
    for await (const change of upperChanges(lower, upper, options)) {
      await context.out.line(jsonLine(recordOf(change)));
    }
    return 0;
  },
});

export const write: Command = defineCommand({
  usage: '[--lower JSON]… --upper JSON [--walk] [-o FILE|-]',
  operands: [0, 0],
  options: {
    ...SIDES,
    walk: WALK,
    output: { kind: 'value', short: 'o', value: 'FILE|-', help: 'where to (default: -, which must not be a terminal)' },
  },
  async run(context: Context, given) {
    checkDestination(context, given.output);
    const { writeUpperdir } = await import('../../../index.ts');
    const { lower, upper } = sidesOf(given);
    const how = { walk: given.walk, signal: context.signal, onNote: noteTo(context) };
    await writeStream(context, given.output, writeUpperdir(lower, upper, how));
    return 0;
  },
});
