import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Scratch extends AsyncDisposable {
  readonly path: string;
}

/** A directory of this test's own (below LAYERSTORE_TEST_DIR, else the system's), gone at the end of the block. */
export async function scratch(name = 'test'): Promise<Scratch> {
  const path = await mkdtemp(join(process.env['LAYERSTORE_TEST_DIR'] ?? tmpdir(), `layerstore-${name}-`));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}
