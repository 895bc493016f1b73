import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';

const MODULE = new URL('../../src/linux/cycles.ts', import.meta.url).href;

test('countCyclesBeside() asks for the rate of the processor’s counter in another thread, once', async (t) => {
  if (!need(t, 'strace')) return;
  if (process.arch !== 'x64') return t.skip('V8 asks no file elsewhere');
  await using dir = await scratch();
  const trace = join(dir.path, 'trace');
  const script = `const { countCyclesBeside: count } = await import(${JSON.stringify(MODULE)}); count(); count();`;
  // Without V8's own threads only the main thread asks by itself: where it had to wait for a lock before.
  const program = [process.execPath, '--single-threaded', '--input-type=module', '-e', script];
  const beside = (): boolean => {
    const ran = spawnSync('strace', ['-f', '-o', trace, '-e', 'trace=openat,execve', ...program], { encoding: 'utf8' });
    assert.equal(ran.status, 0, ran.stderr);
    const lines = readFileSync(trace, 'utf8').split('\n');
    const main = lines[0]?.split(' ')[0];
    const asking = lines.filter((line) => line.includes('tsc_freq_khz')).map((line) => line.split(' ')[0]);
    assert.equal(asking.length, 1);
    return asking[0] !== main;
  };
  for (let tries = 1; !beside(); tries++) assert.ok(tries < 40);
});
