import { readdirSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';

const HOME = new URL('../golden/tar/', import.meta.url);

/** One archive that another tool made, and Python's listing of it. */
export interface Golden {
  readonly name: string;
  readonly tar: Buffer;
  readonly listing: readonly unknown[];
}

/** All archives of test/golden/tar, by name. */
export function goldens(): Golden[] {
  return readdirSync(HOME)
    .filter((file) => file.endsWith('.tar.gz'))
    .sort()
    .map((file) => {
      const name = file.slice(0, -'.tar.gz'.length);
      const tar = gunzipSync(readFileSync(new URL(file, HOME)));
      return { name, tar, listing: JSON.parse(readFileSync(new URL(`${name}.json`, HOME), 'utf8')) };
    });
}
