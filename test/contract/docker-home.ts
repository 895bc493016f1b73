import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { AT_FDCWD, mknodat, S_IFBLK, S_IFCHR } from '../../src/linux/inode.ts';
import { lsetxattr } from '../../src/linux/xattr.ts';

/** What Docker calls the layers of the home below, bottom first: two of an image, a container's init layer and its own. */
export const DOCKER_LAYERS: Readonly<Record<'base' | 'image' | 'init' | 'container', string>> = {
  base: 'b'.repeat(64),
  image: 'a1'.repeat(32),
  init: `${'c'.repeat(64)}-init`,
  container: 'c'.repeat(64),
};

const LINKS: Readonly<Record<string, string>> = {
  base: 'B5Q53KGZUJGDSHDQHLSPB6IHYQ',
  image: 'C5A5KNQ3O3EW2DNRYSG425Z54B',
  init: 'OFEYWK7MJ3H4SLJBMJELBNRN6G',
  container: 'PBGFXFXQK7LFCVJ5NPTHHVF25G',
};

/**
 * A home as Docker 20.10 leaves it behind, file by file (read from homes that dockerd made, and from its source): no
 * mark of ours; `lower` 0666, as where the umask was 0; the block device of its quota, and one that a kill left; no
 * work/work where nothing was ever mounted. `etc/gone` is deleted by the image, `opt` made opaque.
 */
export function writeDockerHome(home: ByteString): void {
  const at = (path: string): string => `${home}/${path}`;
  mkdirSync(home, { mode: 0o710 });
  mkdirSync(at('l'), { mode: 0o700 });
  for (const name of ['backingFsBlockDev', 'backingFsBlockDev.tmp'])
    mknodat(AT_FDCWD, fromText(at(name)), S_IFBLK | 0o600, 8, 1);
  let below = '';
  for (const [name, layer] of Object.entries(DOCKER_LAYERS)) {
    const link = LINKS[name] as string;
    mkdirSync(at(layer), { mode: 0o710 });
    mkdirSync(at(`${layer}/diff/etc`), { recursive: true });
    writeFileSync(at(`${layer}/link`), link);
    symlinkSync(`../${layer}/diff`, at(`l/${link}`));
    if (below !== '') {
      writeFileSync(at(`${layer}/lower`), below);
      chmodSync(at(`${layer}/lower`), 0o666);
      mkdirSync(at(`${layer}/work`), { mode: 0o700 });
    }
    if (name !== 'container') writeFileSync(at(`${layer}/committed`), '', { mode: 0o600 });
    below = below === '' ? `l/${link}` : `l/${link}:${below}`;
    writeFileSync(at(`${layer}/diff/etc/${name}`), name);
  }
  const { base, image, init, container } = DOCKER_LAYERS;
  for (const layer of [init, container]) mkdirSync(at(`${layer}/work/work`), { mode: 0 });
  for (const layer of [base, image]) mkdirSync(at(`${layer}/diff/opt`));
  for (const name of ['etc/gone', 'opt/old']) writeFileSync(at(`${base}/diff/${name}`), name);
  writeFileSync(at(`${image}/diff/opt/new`), 'new');
  mknodat(AT_FDCWD, fromText(at(`${image}/diff/etc/gone`)), S_IFCHR, 0, 0);
  lsetxattr(fromText(at(`${image}/diff/opt`)), fromText('trusted.overlay.opaque'), Buffer.from('y'));
}
