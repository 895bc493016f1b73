import { lstatSync, readdirSync } from 'node:fs';

/** What is always there and says nothing: the database, locks, empty directories of the layout and of the drivers. */
const FURNITURE =
  /^(store\.db(-wal|-shm)?|tmp|records|run(\/[^/]+(\/(locks|holds|detached|sessions|overlay|reserve|room|given)(\/\.(home|sweep|load-[0-9a-f]{3}))?)?)?|run\/[^/]+\/sessions\/[^/]+|(overlay2|vfs)(\/(l|dir|layers|mnt|\.layerstore))?)$/;

/** A removed layer, whose tree is deleted in the background. */
const ASIDE = /^(overlay2|vfs)\/\.removing-[^/]+$/;

/** None where others took the directory away meanwhile. */
function namesIn(directory: Buffer): string[] {
  try {
    return readdirSync(directory, 'latin1');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/**
 * Every path below a store's root that is some layer's, record's, hold's or left-over's, sorted; `aside`: removed trees
 * that wait for their deletion too.
 */
export function rootDump(root: string, { aside = false }: { readonly aside?: boolean } = {}): string[] {
  const found: string[] = [];
  // Layers have names that are not text: a character for each byte.
  const bytesOf = (path: string): Buffer => Buffer.concat([Buffer.from(`${root}/`), Buffer.from(path, 'latin1')]);
  const walk = (path: string): void => {
    for (const name of namesIn(bytesOf(path))) {
      const at = path === '' ? name : `${path}/${name}`;
      if (!aside && ASIDE.test(at)) continue;
      if (!FURNITURE.test(at)) found.push(at);
      // What other processes take away meanwhile is not there.
      if (lstatSync(bytesOf(at), { throwIfNoEntry: false })?.isDirectory()) walk(at);
    }
  };
  walk('');
  return found.sort();
}
