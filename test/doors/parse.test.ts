import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromBytes, fromText } from '../../src/base/bytes.ts';
import { lastArguments, readArguments, textOf } from '../../src/doors/cli/arguments.ts';
import type { FlagSpec, ListSpec, ValueSpec } from '../../src/doors/cli/command.ts';
import { GLOBAL_OPTIONS, joinGlobals, settingsOf } from '../../src/doors/cli/globals.ts';
import { checkCount, parseOptions, UsageError } from '../../src/doors/cli/parse.ts';

const SPECS: {
  readonly all: FlagSpec;
  readonly quiet: FlagSpec;
  readonly output: ValueSpec;
  readonly change: ListSpec;
} = {
  all: { kind: 'flag', short: 'a', help: '' },
  quiet: { kind: 'flag', short: 'q', help: '' },
  output: { kind: 'value', short: 'o', value: 'FILE', help: '' },
  change: { kind: 'list', short: 'c', value: 'LINE', help: '' },
};

const words = (line: string): ByteString[] => line.split(' ').filter(Boolean).map(fromText);

test('parseOptions() reads what getopt_long reads', () => {
  const table: readonly (readonly [
    string,
    { all?: true; quiet?: true; output?: string; change?: string[]; operands?: string[] },
  ])[] = [
    ['', {}],
    ['-a', { all: true }],
    ['-aq x', { all: true, quiet: true, operands: ['x'] }],
    ['x --all y', { all: true, operands: ['x', 'y'] }],
    ['-o f', { output: 'f' }],
    ['-of', { output: 'f' }],
    ['-aof', { all: true, output: 'f' }],
    ['--output f', { output: 'f' }],
    ['--output=f', { output: 'f' }],
    ['--output=', { output: '' }],
    ['--output=a=b', { output: 'a=b' }],
    ['--output --all', { output: '--all' }],
    ['-o - -', { output: '-', operands: ['-'] }],
    ['-o a -o b', { output: 'b' }],
    ['-c a --change b -cc', { change: ['a', 'b', 'c'] }],
    ['-- -a --no x', { operands: ['-a', '--no', 'x'] }],
  ];
  for (const [line, want] of table) {
    const { given, operands } = parseOptions(words(line), SPECS);
    assert.deepEqual(
      { ...given, operands },
      {
        all: want.all ?? false,
        quiet: want.quiet ?? false,
        output: want.output,
        change: want.change ?? [],
        operands: want.operands ?? [],
      },
      line,
    );
  }
});

test('parseOptions() refuses what it does not know, naming it', () => {
  const table: readonly (readonly [string, RegExp])[] = [
    ['--nope', /unknown option "--nope"/],
    ['--nope=1', /unknown option "--nope"/],
    ['--constructor', /unknown option/],
    ['-x', /unknown option "-x"/],
    ['-ax', /unknown option "-x"/],
    ['--all=1', /--all takes no value/],
    ['-o', /-o needs a value/],
    ['--output', /--output needs a value/],
    ['--=x', /unknown option "--"/],
  ];
  for (const [line, message] of table) {
    assert.throws(
      () => parseOptions(words(line), SPECS),
      (error) => error instanceof UsageError && message.test(error.message),
      line,
    );
  }
});

test('parseOptions() stops at the first operand when asked, and loses nothing', () => {
  const { given, operands, rest } = parseOptions(words('-q load -x --root'), SPECS, { stopAtOperand: true });
  assert.deepEqual([given.quiet, operands, rest], [true, [], words('load -x --root')]);
});

test('parseOptions() gives every operand behind -- back as it was', () => {
  fc.assert(
    fc.property(fc.array(fc.string().map(fromText)), (args) => {
      assert.deepEqual(parseOptions(['--' as ByteString, ...args], SPECS).operands, args);
    }),
  );
});

test('checkCount() says what is missing and what is too much', () => {
  checkCount(words('a b'), [1, 2]);
  assert.throws(() => checkCount([], [1, 1]), /nothing given, it needs 1/);
  assert.throws(() => checkCount(words('a'), [2, 2]), /only 1 given, it needs 2/);
  assert.throws(() => checkCount([], [1, Number.POSITIVE_INFINITY]), /at least 1/);
  assert.throws(() => checkCount(words('a b c'), [1, 2]), /unexpected argument "c"/);
});

test('joinGlobals() lets the later option win and joins lists', () => {
  const before = parseOptions(words('--root /a --driver-opt a=1 --json'), GLOBAL_OPTIONS).given;
  const behind = parseOptions(words('--root /b --driver-opt b=2'), GLOBAL_OPTIONS).given;
  const joined = joinGlobals(before, behind);
  assert.deepEqual([joined.root, joined['driver-opt'], joined.json], ['/b', ['a=1', 'b=2'], true]);
});

test('settingsOf() takes the environment where no option is given', () => {
  const given = (line: string) => parseOptions(words(line), GLOBAL_OPTIONS).given;
  const env = { LAYERSTORE_ROOT: '/env', LAYERSTORE_DRIVER: 'vfs' };
  assert.deepEqual(settingsOf(given(''), env), { root: '/env', driver: 'vfs', driverOptions: [], logLevel: 'warn' });
  assert.equal(settingsOf(given('--root /x'), env).root, '/x');
  assert.equal(settingsOf(given(''), { LAYERSTORE_ROOT: '' }).root, '/var/lib/layerstore');
  assert.throws(() => settingsOf(given('--root='), {}), UsageError);
  assert.throws(() => settingsOf(given('--log-level loud'), {}), /error, warn, info, debug/);
});

test('lastArguments() gives the bytes that the kernel kept', () => {
  const line = Buffer.from('node\0main.ts\0cp\0\xff\xfe\0\0', 'latin1');
  assert.deepEqual(lastArguments(line, 3), ['cp', '\xff\xfe', '']);
  assert.deepEqual(lastArguments(line, 0), []);
});

test('readArguments() takes valid text as it is', () => {
  assert.deepEqual(readArguments(['node', 'main.ts', 'größe']), [fromText('größe')]);
});

test('textOf() refuses bytes that are not UTF-8', () => {
  assert.equal(textOf(fromText('größe'), 'it'), 'größe');
  assert.throws(() => textOf(fromBytes(Buffer.from([0xff])), 'the name'), /the name "\\xff" is not UTF-8/);
});
