import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { fromText } from '../../src/base/bytes.ts';
import { sweepProbes } from '../../src/driver/overlay/probe.ts';

import { inlinePerformer } from '../kit/inline-performer.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';

test('sweepProbes() passes over probes that their makers remove meanwhile', async (t) => {
  if (!need(t, 'root')) return; // the performer's thread has a root of its own
  await using dir = await scratch();
  await using perform = inlinePerformer();
  // As processes do that make a store there at the same time; the shell's own mkdir and rmdir would be programs.
  const script = `const { mkdirSync, rmdirSync } = require('node:fs');
    for (;;) { mkdirSync('.layerstore-probe-other'); rmdirSync('.layerstore-probe-other'); }`;
  const other = spawn(process.execPath, ['-e', script], { cwd: dir.path, stdio: ['ignore', 'ignore', 'inherit'] });
  try {
    const end = performance.now() + 1500;
    let sweeps = 0;
    for (; performance.now() < end; sweeps++) await sweepProbes(fromText(dir.path), perform);
    assert.ok(sweeps > 100, `${sweeps} sweeps`);
    assert.equal(other.exitCode, null, 'it went on meanwhile');
  } finally {
    other.kill('SIGKILL');
    if (other.exitCode === null && other.signalCode === null) await once(other, 'exit');
  }
});
