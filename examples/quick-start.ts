// The main job on a real image, command by command: load, create, mount, change, changes, commit, save.
//   ./try                                      as root, on Linux, after `npm ci`
//   ./try examples/quick-start.ts --keep       keeps the store and the archives, and says where they are
import { createHash } from 'node:crypto';
import { createReadStream, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { readTar, toText } from '../src/tar/index.ts';
import { type MadeLayer, makeImage } from './quick-start/image.ts';
import { Session } from './quick-start/session.ts';

const CHECKOUT = dirname(dirname(fileURLToPath(import.meta.url)));
const keep = process.argv.includes('--keep');

if (process.platform !== 'linux') {
  refuse(5, `it mounts overlay filesystems, which Linux has and ${process.platform} has not`);
}
if (process.geteuid?.() !== 0) {
  refuse(9, 'it mounts filesystems, which only root may do; run it as root: sudo ./try');
}

// With a handler an interrupt ends the command that runs; then the clean-up below is done.
let interrupted = false;
process.on('SIGINT', () => {
  interrupted = true;
});
process.stdout.on('error', () => {});

const began = performance.now();
const directory = mkdtempSync(join(tmpdir(), 'layerstore-demo-'));
const session = new Session(directory, {
  LAYERSTORE_ROOT: join(directory, 'store'),
  PATH: `${join(CHECKOUT, 'bin')}:${process.env['PATH']}`,
});
try {
  await show(session);
  const gone = keep ? '' : ` Its directory is removed again; "./try examples/quick-start.ts --keep" leaves it.`;
  session.say(`\nDone in ${((performance.now() - began) / 1000).toFixed(1)} s.${gone}`);
} catch (error) {
  await setImmediate(); // The handler has its turn.
  console.error(`quick start: ${interrupted ? 'interrupted' : (error as Error).message}`);
  process.exitCode = interrupted ? 130 : 1;
} finally {
  tidy();
}

async function show(session: Session): Promise<void> {
  session.say(
    '1. An image, made of what this machine has: three layers, each compressed in another way, in an OCI archive.\n',
  );
  const layers = makeImage(join(directory, 'image.oci.tar'), 'docker.io/library/demo:1');
  for (const [i, layer] of layers.entries()) session.say(`   layer ${i + 1}: ${layer.about} (${sizesOf(layer)})`);
  session.say(`\n   "layerstore" is bin/layerstore. The store will be below ${directory}, for it says:`);
  session.say(`   export LAYERSTORE_ROOT=${join(directory, 'store')}`);
  session.say('\n2. Load it: digests are checked and the layers unpacked, once for all images that share them.');
  session.run('layerstore load -i image.oci.tar');
  session.run('layerstore info');
  session.run('layerstore images');
  session.say(
    '\n   "load" prints the digest of the manifest, "images" the id: the digest of the config, whatever the form.',
  );
  session.run('layerstore layers demo:1');

  session.say(
    '\n3. A writable layer on it, mounted: an ordinary directory. Nothing of the image is copied (with overlay2).',
  );
  session.run('layerstore create demo:1 --name job-1');
  session.assign('DIR', 'layerstore mount job-1');
  session.say('\n   The third layer hid the settings of the second, and deleted typescript/README.md:');
  session.run('chroot "$DIR" ls -F /srv/app /srv/app/settings /srv/app/current/');

  session.say('\n4. Change it, here by the shell in it.');
  session.run(`chroot "$DIR" sh -c 'cd /srv/app && ./start && echo "colour = blue" > settings/30-job'`);
  session.run(
    `chroot "$DIR" sh -c 'rm -r /srv/app/node_modules/fast-check; chmod 700 /srv/app/start; ln -s /srv/app /app'`,
  );
  session.run('layerstore umount job-1');

  session.say('\n5. What changed: A is added, C is changed, D is deleted.');
  session.run('layerstore changes job-1');

  session.say('\n6. Make that a new image: the old layers and one more, which holds the changes alone.');
  session.run(`layerstore commit job-1 demo:2 --message 'blue, without fast-check' --change 'CMD ["/app/start"]'`);
  session.run('layerstore history demo:2');

  session.say('\n7. Save it, for any other tool. The layers that came in go out as the very bytes they were.');
  session.run('layerstore save demo:2 -o new.oci.tar');
  session.say();
  await compare(layers);

  session.say('\n8. Is the store sound? Every layer is read back and hashed.');
  session.run('layerstore check --deep && echo sound');
}

/** Hashes what is in the saved archive, without layerstore's store, and compares. */
async function compare(layers: readonly MadeLayer[]): Promise<void> {
  const saved = new Set<string>();
  for await (const { entry, payload } of readTar(createReadStream(join(directory, 'new.oci.tar')))) {
    if (!toText(entry.name).startsWith('blobs/sha256/')) continue;
    const hash = createHash('sha256');
    for await (const chunk of payload) hash.update(chunk);
    saved.add(`sha256:${hash.digest('hex')}`);
  }
  for (const [i, { diffId }] of layers.entries()) {
    if (!saved.has(diffId))
      throw new Error(`Layer ${i + 1} came out with other bytes: ${diffId} is not in new.oci.tar`);
    session.say(`   layer ${i + 1}: in and out ${diffId}`);
  }
}

function sizesOf({ tarBytes, blobBytes, compression }: MadeLayer): string {
  const mb = (bytes: number): string => `${(bytes / 1e6).toFixed(bytes < 1e5 ? 3 : 1)} MB`;
  return compression === 'none' ? `${mb(tarBytes)}, as it is` : `${mb(tarBytes)}, with ${compression} ${mb(blobBytes)}`;
}

/** Removes everything, unless asked not to, or something is still mounted in it. */
function tidy(): void {
  if (keep) {
    session.say(`\nKept: export LAYERSTORE_ROOT=${join(directory, 'store')} PATH=${join(CHECKOUT, 'bin')}:$PATH`);
    session.say(`Afterwards: rm -r ${directory}`);
    return;
  }
  const mounted = (): boolean => readFileSync('/proc/self/mountinfo', 'utf8').includes(`${directory}/`);
  try {
    if (mounted()) session.quietly('layerstore umount job-1');
    if (!mounted()) {
      rmSync(directory, { recursive: true, force: true });
      return;
    }
  } catch {
    // The message of the command says why; what to do follows.
  }
  console.error(`quick start: ${directory} is left: something in it is mounted; "umount" that, then remove it`);
}

function refuse(code: number, why: string): never {
  console.error(`Cannot run the quick start: ${why}`);
  process.exit(code);
}
