import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeLayout } from '../test/interop/write-layout.ts';
import { command, shell } from './command.ts';

/** An image to measure with. */
export interface Fixture {
  readonly name: string;
  /** `name:1`, short. */
  readonly reference: string;
  /** OCI layout that is a docker archive as well, with gzip layers. */
  readonly archive: string;
  /** The same as a directory. */
  readonly layout: string;
  /** Its layer blobs, bottom first. */
  readonly blobs: readonly string[];
  readonly chainId: string;
  readonly archiveBytes: number;
  /** A tar of CHANGED_FILES small files: half of them replace files of the first layer. */
  readonly changes: string;
}

export const CHANGED_FILES = 1000;
const CHANGED_BYTES = 2048;
const LAYOUT = ['oci-layout', 'index.json', 'manifest.json', 'blobs'];

/** Those of `directory` (`NAME.oci.tar` beside `NAME/`), or one made here if there is none. */
export async function fixturesFrom(
  directory: string | undefined,
  names: readonly string[] | undefined,
  scratch: string,
): Promise<Fixture[]> {
  const known =
    directory === undefined
      ? []
      : readdirSync(directory)
          .filter((file) => file.endsWith('.oci.tar') && existsSync(join(directory, file.slice(0, -8), 'index.json')))
          .map((file) => file.slice(0, -8));
  const place = known.length > 0 ? (directory as string) : await generate(join(scratch, 'images'));
  const found = known.length > 0 ? known : ['generated'];
  const wanted = names ?? found;
  const absent = wanted.filter((name) => !found.includes(name));
  if (absent.length > 0) throw new Error(`No such image: ${absent.join(', ')}; there are ${found.join(', ')}`);
  const fixtures = await Promise.all(wanted.map((name) => read(place, name, scratch)));
  return fixtures.toSorted((a, b) => a.archiveBytes - b.archiveBytes);
}

interface Described {
  readonly digest: string;
  readonly size: number;
}

async function read(directory: string, name: string, scratch: string): Promise<Fixture> {
  const layout = join(directory, name);
  const blob = (digest: string): string => join(layout, 'blobs/sha256', digest.slice('sha256:'.length));
  const json = (path: string): Record<string, unknown> => JSON.parse(readFileSync(path, 'utf8'));
  const [first] = json(join(layout, 'index.json'))['manifests'] as Described[];
  const manifest = json(blob(first?.digest ?? '')) as unknown as { config: Described; layers: Described[] };
  const config = json(blob(manifest.config.digest)) as unknown as { rootfs: { diff_ids: string[] } };
  const archive = join(directory, `${name}.oci.tar`);
  // Read once, so that all find it in memory.
  const archiveBytes = Number(await shell('cat "$1" | wc -c', [archive]));
  await shell('cat "$1"/blobs/sha256/* >/dev/null', [layout]);
  const blobs = manifest.layers.map((layer) => blob(layer.digest));
  const chainId = config.rootfs.diff_ids.reduce((chain, diffId) => `sha256:${sha256(`${chain} ${diffId}`)}`);
  const changes = await makeChanges(blobs[0] as string, join(scratch, `changes-${name}`));
  return { name, reference: `${name}:1`, archive, layout, blobs, chainId, archiveBytes, changes };
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

async function makeChanges(baseLayer: string, directory: string): Promise<string> {
  const listing = await shell('gzip -dc "$1" | tar -tv', [baseLayer]);
  const files = listing
    .split('\n')
    .filter((line) => line.startsWith('-') && /^\S+ \S+ +\d+ \S+ \S+ [\w./-]+$/.test(line))
    .map((line) => (line.split(/ +/)[5] as string).replace(/^\.?\//, ''));
  const step = Math.max(1, Math.floor(files.length / (CHANGED_FILES / 2)));
  const replaced = files.filter((_, i) => i % step === 0).slice(0, CHANGED_FILES / 2);
  const added = Array.from({ length: CHANGED_FILES - replaced.length }, (_, i) => `bench-added/${i % 20}/file${i}`);
  for (const file of [...replaced, ...added]) {
    mkdirSync(join(directory, file, '..'), { recursive: true });
    writeFileSync(join(directory, file), content(file, CHANGED_BYTES));
  }
  const list = `${directory}.list`;
  writeFileSync(list, [...replaced, ...added].join('\n'));
  await command('tar', [
    '-C',
    directory,
    '--owner=0',
    '--group=0',
    '--numeric-owner',
    '-cf',
    `${directory}.tar`,
    '-T',
    list,
  ]);
  return `${directory}.tar`;
}

/** Text that compresses about as well as source code does, the same for the same seed. */
function content(seed: string, bytes: number): Buffer {
  let text = '';
  for (let i = 0; text.length < bytes; i++)
    text += `${sha256(`${seed} ${i}`).slice(0, 24)} const export function return ${i};\n`;
  return Buffer.from(text.slice(0, bytes));
}

/** A made image of about 90 MB in 10,000 files and four layers, for where there is no better one. */
async function generate(directory: string): Promise<string> {
  const layers = [
    { name: 'base', files: 3000, bytes: 12_000 },
    { name: 'modules', files: 6000, bytes: 6000 },
    { name: 'app', files: 900, bytes: 3000 },
    { name: 'binary', files: 3, bytes: 5_000_000 },
  ];
  const tars: string[] = [];
  for (const { name, files, bytes } of layers) {
    const tree = join(directory, 'trees', name);
    for (let i = 0; i < files; i++) {
      const dir = join(tree, name, `d${i % 97}`, `e${i % 7}`);
      if (i < 679) mkdirSync(dir, { recursive: true });
      writeFileSync(join(dir, `f${i}`), content(`${name} ${i}`, bytes));
    }
    if (name === 'app') {
      // Takes two files and a directory of the layers below away.
      mkdirSync(join(tree, 'base/d1/e1'), { recursive: true });
      mkdirSync(join(tree, 'modules/d3'), { recursive: true });
      for (const file of ['base/.wh.d2', 'base/d1/e1/.wh.f1', 'modules/d3/.wh..wh..opq'])
        writeFileSync(join(tree, file), '');
    }
    const tar = join(directory, `${name}.tar`);
    await command('tar', ['-C', tree, '--sort=name', '--owner=0', '--group=0', '--numeric-owner', '-cf', tar, '.']);
    tars.push(tar);
  }
  writeLayout(join(directory, 'generated'), 'generated:1', tars);
  await command('tar', ['-C', join(directory, 'generated'), '-cf', join(directory, 'generated.oci.tar'), ...LAYOUT]);
  return directory;
}
