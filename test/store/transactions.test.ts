import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { layerstore } from '../doors/run-cli.ts';
import { deletersEnd } from '../kit/deleters.ts';
import { filesystem } from '../kit/filesystems.ts';
import { dockerTar } from '../kit/images.ts';
import { file, layer } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';

// Each durable transaction waits for the disk. Those that announce what is about to be on disk, and those that take the
// announcement back, cannot be one: see docs/on-disk.md. More than these is too many.

/** Commands in their order, each with its transactions. */
const COMMANDS: readonly (readonly [transactions: number, ...args: readonly string[]])[] = [
  [2, 'load', '-i', 'one.tar'], // announced, registered
  [2, 'load', '-i', 'one.tar'], // its layers are there: pinned, the names
  [5, 'load', '-i', 'two.tar'], // one of its layers is: pinned, pinned anew when it has its turn, unpinned, announced, registered
  [1, 'tag', 'one:1', 'other:1'],
  [2, 'create', '--name', 'work', 'one:1'], // announced, registered
  [2, 'commit', 'work', 'next:1'], // pinned and announced, registered
  [0, 'mount', 'work'],
  [0, 'diff', 'work', '-o', 'diff.tar'],
  [0, 'umount', 'work'],
  [2, 'save', 'one:1', '-o', 'saved.tar'], // pinned, unpinned
  [2, 'rm', 'work'], // its row, the announcement
  [1, 'rmi', 'other:1'], // only a name
  [3, 'rmi', 'next:1', 'one:1', 'two:1'], // the images, all their layers, the announcements
  [0, 'images'],
  [0, 'layers'],
  [0, 'ls'],
  [0, 'check'],
  [0, 'info'],
];

for (const driver of DRIVERS) {
  test(`commands write to the database as rarely as they can (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 64);
    const root = join(disk.path, 'store');
    const archive = (name: string, ...files: readonly string[]): string => {
      const path = join(disk.path, `${name}.tar`);
      const layers = files.map((one) => layer(file(one, one)));
      writeFileSync(path, dockerTar({ layers, names: [`docker.io/library/${name}:1`] }));
      return path;
    };
    archive('one', 'a', 'b', 'c');
    archive('two', 'a', 'd', 'e');
    const run = (...args: readonly string[]): void => {
      const { status, stderr } = layerstore(root, args);
      assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
    };
    run('--driver', driver, 'load', '-i', archive('empty'));
    // Who has it open keeps the log: the last who closes it takes it away.
    using _ = reader(join(root, 'store.db'));
    const counts: unknown[] = [];
    for (const [, ...args] of COMMANDS) {
      const before = commits(join(root, 'store.db-wal'));
      run(...args.map((arg) => (arg.endsWith('.tar') ? join(disk.path, arg) : arg)));
      await deletersEnd(root); // they may write, too
      counts.push([commits(join(root, 'store.db-wal')) - before, ...args]);
    }
    assert.deepEqual(counts, COMMANDS);
  });
}

function reader(path: string): DatabaseSync {
  const database = new DatabaseSync(path);
  database.prepare('SELECT count(*) FROM layers').get();
  return database;
}

/** Frames that end a transaction (sqlite.org/fileformat2.html#the_write_ahead_log). */
function commits(path: string): number {
  const log = readFileSync(path);
  if (log.length === 0) return 0;
  const pageBytes = log.readUInt32BE(8);
  const salt = log.subarray(16, 24);
  let found = 0;
  for (let at = 32; at + 24 + pageBytes <= log.length; at += 24 + pageBytes) {
    if (salt.equals(log.subarray(at + 8, at + 16)) && log.readUInt32BE(at + 4) !== 0) found++;
  }
  return found;
}
