import { lstatSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

/** What is always there and says nothing: the database, locks, empty directories of the layout and of the drivers. */
const FURNITURE =
  /^(store\.db(-wal|-shm)?|tmp|records|run(\/[^/]+(\/(locks|holds|detached|sessions|overlay|reserve)(\/\.home)?)?)?|run\/[^/]+\/sessions\/[^/]+|(overlay2|vfs)(\/(l|dir|layers|mnt|\.layerstore))?)$/;

/** Every path below a store's root that is some layer's, record's, hold's or left-over's, sorted. */
export function rootDump(root: string): string[] {
  const found: string[] = [];
  const walk = (path: string): void => {
    for (const name of readdirSync(join(root, path))) {
      const at = path === '' ? name : `${path}/${name}`;
      if (!FURNITURE.test(at)) found.push(at);
      if (lstatSync(join(root, at)).isDirectory()) walk(at);
    }
  };
  walk('');
  return found.sort();
}
