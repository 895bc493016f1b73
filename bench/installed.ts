import { copyFileSync, mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const HOME = fileURLToPath(new URL('..', import.meta.url));

const made = new Map<string, Promise<string>>();

/**
 * The command as npm installs it, once in each directory: a checkout looks first whether its source has changed (3 ms),
 * and what is installed keeps its compiled code from run to run. Answers its path.
 */
export function installed(directory: string): Promise<string> {
  const known = made.get(directory) ?? install(directory);
  made.set(directory, known);
  return known;
}

async function install(directory: string): Promise<string> {
  const { bundle } = (await import(pathToFileURL(join(HOME, 'tools/bundle.mjs')).href)) as {
    bundle(target: string): Promise<void>;
  };
  const launcher = join(directory, 'bin/layerstore');
  mkdirSync(join(directory, 'bin'), { recursive: true });
  copyFileSync(join(HOME, 'bin/layerstore'), launcher);
  copyFileSync(join(HOME, 'package.json'), join(directory, 'package.json'));
  symlinkSync(join(HOME, 'node_modules'), join(directory, 'node_modules'));
  await bundle(directory);
  return launcher;
}
