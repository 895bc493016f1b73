import { type ByteString, quote, toText } from '../../../base/bytes.ts';
import type { LayerId } from '../../../base/values.ts';
import { hasSelinux } from '../../../linux/label.ts';
import { textOf } from '../arguments.ts';
import { openDriverOf } from '../bare-driver.ts';
import { writeChanges } from '../change-lines.ts';
import { type Command, defineCommand, type OptionSpecs } from '../command.ts';
import { type Context, say } from '../context.ts';
import { checkDestination, writeStream } from '../destination.ts';
import { jsonDocument, jsonLine } from '../json.ts';
import { keyValues } from '../key-values.ts';
import { standardInput } from '../source.ts';

// One verb for each operation of a driver. Ids are exact, and bytes; the driver judges them.

/** What keeps a mount of `get` until `put`. */
const HOLD = 'driver get';
const NONE: OptionSpecs = {};

const idOf = (operands: readonly ByteString[], at = 0): LayerId => operands[at] as string as LayerId;
const parentOf = (operands: readonly ByteString[]): LayerId | undefined =>
  operands[1] === undefined ? undefined : idOf(operands, 1);

/** One value: as it is, or as a JSON document. */
function print(context: Context, value: ByteString | string, json: unknown): Promise<void> | undefined {
  return context.json ? context.out.line(jsonDocument(json)) : context.out.lineBytes(value as ByteString);
}

export const status: Command = defineCommand({
  usage: '',
  operands: [0, 0],
  options: NONE,
  async run(context) {
    await using driver = await openDriverOf(context, { writes: false });
    const pairs = await driver.status();
    if (context.json) await context.out.line(jsonDocument(pairs));
    else for (const [name, value] of pairs) await context.out.line(`${name}: ${value}`);
    return 0;
  },
});

export const create: Command = defineCommand({
  usage: 'ID [--parent ID] [--read-write] [--storage-opt K=V]…',
  operands: [1, 1],
  options: {
    parent: { kind: 'value', value: 'ID', help: 'the layer below (default: none)' },
    'read-write': { kind: 'flag', help: 'a layer to be written through a mount' },
    'storage-opt': { kind: 'list', value: 'K=V', help: 'option of the driver for this layer, such as size=10G' },
  },
  async run(context, given, operands) {
    const settings = keyValues(given['storage-opt']);
    await using driver = await openDriverOf(context, { writes: true });
    await driver.create(idOf(operands), {
      writable: given['read-write'],
      ...(given.parent === undefined ? {} : { parent: given.parent as string as LayerId }),
      settings,
      signal: context.signal,
    });
    await print(context, idOf(operands), { id: idOf(operands) });
    return 0;
  },
});

export const get: Command = defineCommand({
  usage: 'ID [--label L]',
  operands: [1, 1],
  options: {
    label: { kind: 'value', value: 'LABEL', help: 'SELinux label of the mount; the first one counts' },
  },
  async run(context, given, operands) {
    await using driver = await openDriverOf(context, { writes: false });
    // Not disposed of: the mount stays until `put`.
    const { path } = await driver.mount(idOf(operands), {
      holdName: HOLD,
      ...(given.label === undefined ? {} : { label: textOf(given.label, 'the label') }),
      signal: context.signal,
    });
    if (given.label !== undefined && !hasSelinux()) {
      say(context, `note: the label ${quote(given.label)} is dropped: this kernel runs no SELinux`);
    }
    await print(context, path, { path: toText(path) });
    return 0;
  },
});

export const put: Command = defineCommand({
  usage: 'ID',
  operands: [1, 1],
  options: NONE,
  async run(context, _given, operands) {
    await using driver = await openDriverOf(context, { writes: false });
    // As Docker: what is busy is detached, and a put too many is success.
    await driver.release(idOf(operands), HOLD, { detach: true });
    return 0;
  },
});

export const exists: Command = defineCommand({
  usage: 'ID',
  operands: [1, 1],
  options: NONE,
  async run(context, _given, operands) {
    await using driver = await openDriverOf(context, { writes: false });
    const there = await driver.has(idOf(operands));
    await print(context, String(there), there);
    return 0;
  },
});

export const metadata: Command = defineCommand({
  usage: 'ID',
  operands: [1, 1],
  options: NONE,
  async run(context, _given, operands) {
    await using driver = await openDriverOf(context, { writes: false });
    const { upper, lower, work, merged } = await driver.metadata(idOf(operands));
    // Docker's names, and its order.
    const pairs: readonly (readonly [string, string])[] = [
      ...(lower.length === 0 ? [] : [['LowerDir', lower.join(':')] as const]),
      ['MergedDir', merged],
      ['UpperDir', upper],
      ...(work === undefined ? [] : [['WorkDir', work] as const]),
    ];
    if (context.json) {
      const texts = pairs.map(([key, value]) => [key, toText(value as ByteString)] as const);
      await context.out.line(jsonDocument(Object.fromEntries(texts)));
    } else for (const [key, value] of pairs) await context.out.lineBytes(`${key}\t${value}` as ByteString);
    return 0;
  },
});

export const diff: Command = defineCommand({
  usage: 'ID [PARENT]',
  operands: [1, 2],
  options: NONE,
  async run(context, _given, operands) {
    checkDestination(context, undefined);
    await using driver = await openDriverOf(context, { writes: false });
    const { signal } = context;
    await writeStream(context, undefined, driver.diff(idOf(operands), parentOf(operands), { signal, lend: true }));
    return 0;
  },
});

export const changes: Command = defineCommand({
  usage: 'ID [PARENT]',
  operands: [1, 2],
  options: NONE,
  async run(context, _given, operands) {
    await using driver = await openDriverOf(context, { writes: false });
    const options = { signal: context.signal, rendering: 'docker' } as const;
    await writeChanges(context, driver.changes(idOf(operands), parentOf(operands), options));
    return 0;
  },
});

export const apply: Command = defineCommand({
  usage: 'ID [PARENT]',
  operands: [1, 2],
  options: NONE,
  async run(context, _given, operands) {
    const tar = standardInput(context);
    const parent = parentOf(operands);
    await using driver = await openDriverOf(context, { writes: true });
    const { sizeBytes } = await driver.apply(idOf(operands), tar, {
      ...(parent === undefined ? {} : { parent }),
      signal: context.signal,
    });
    await print(context, String(sizeBytes), sizeBytes);
    return 0;
  },
});

export const size: Command = defineCommand({
  usage: 'ID [PARENT]',
  operands: [1, 2],
  options: NONE,
  async run(context, _given, operands) {
    await using driver = await openDriverOf(context, { writes: false });
    const bytes = await driver.diffSize(idOf(operands), parentOf(operands), { signal: context.signal });
    await print(context, String(bytes), bytes);
    return 0;
  },
});

export const remove: Command = defineCommand({
  usage: 'ID',
  operands: [1, 1],
  options: NONE,
  async run(context, _given, operands) {
    await using driver = await openDriverOf(context, { writes: true });
    await driver.remove(idOf(operands));
    return 0;
  },
});

export const cleanup: Command = defineCommand({
  usage: '',
  operands: [0, 0],
  options: NONE,
  async run(context) {
    await using driver = await openDriverOf(context, { writes: false });
    await driver.cleanup();
    return 0;
  },
});

export const list: Command = defineCommand({
  usage: '',
  operands: [0, 0],
  options: NONE,
  async run(context) {
    await using driver = await openDriverOf(context, { writes: false });
    for (const id of (await driver.list()).sort() as readonly string[] as readonly ByteString[]) {
      await (context.json ? context.out.line(jsonLine({ id: toText(id) })) : context.out.lineBytes(id));
    }
    return 0;
  },
});
