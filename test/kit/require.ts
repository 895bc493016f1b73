import { spawnSync } from 'node:child_process';
import { existsSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import type { TestContext } from 'node:test';

/** What a test may need of the machine: a right, or a program. */
const CHECKS: Readonly<Record<string, () => string | undefined>> = {
  root: () => (process.getuid?.() === 0 ? undefined : 'not root'),
  mount: () =>
    process.getuid?.() !== 0
      ? 'not root'
      : spawnSync('unshare', ['--mount', 'true']).status === 0
        ? undefined
        : 'no right to mount',
  fuse: () => (existsSync('/dev/fuse') ? undefined : 'no /dev/fuse'),
  /** For tests that run the checkout's code as another user. */
  'open-checkout': () =>
    openToOthers(new URL('../..', import.meta.url).pathname) ? undefined : 'other users cannot reach this checkout',
  shared: () =>
    existsSync(new URL('../../../shared', import.meta.url)) ? undefined : 'no ../shared beside the project',
};

function openToOthers(path: string): boolean {
  const parent = dirname(path);
  return (statSync(path).mode & 0o005) === 0o005 && (parent === path || openToOthers(parent));
}

function lacking(need: string): string | undefined {
  const check = CHECKS[need];
  if (check !== undefined) return check();
  const found = (process.env['PATH'] ?? '').split(':').some((dir) => existsSync(`${dir}/${need}`));
  return found ? undefined : `no ${need} in PATH`;
}

/** What no installation brings: it depends on where the checkout lies, and what lies beside it. */
const PLACES: readonly string[] = ['open-checkout', 'shared', 'peers'];

/**
 * Whether REQUIRE (comma separated; CI sets it) makes a failure of the lack of `name`. `all` in it means every right and
 * every program, those of tests to come too; places are named one by one.
 */
export function isRequired(name: string): boolean {
  const required = (process.env['REQUIRE'] ?? '').split(',');
  return required.includes(name) || (required.includes('all') && !PLACES.includes(name));
}

/**
 * True when everything in `needs` (a right, or a program's name) is there. Otherwise skips the test with the reason,
 * or fails it where it `isRequired`.
 */
export function need(t: TestContext, ...needs: readonly string[]): boolean {
  for (const name of needs) {
    const reason = lacking(name);
    if (reason === undefined) continue;
    if (isRequired(name)) throw new Error(`REQUIRE names ${name}, but: ${reason}`);
    t.skip(reason);
    return false;
  }
  return true;
}
