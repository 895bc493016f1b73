import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { test } from 'node:test';
import fc from 'fast-check';
import { digestOf } from '../../src/base/digest.ts';
import { formatReference, parseReference } from '../../src/oci/reference.ts';
import { layoutMembers, planDocker, planOci, savedManifest } from '../../src/transport/write-archive.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { collect, contentOf, fails, imagesOf, makeImage, opener, toSave } from './archives.ts';

const full = (name: string): string => formatReference(parseReference(name));

test('planOci() and planDocker() are read back as what went in, and write equal bytes twice', async () => {
  await using dir = await scratch();
  const spec = fc.record({
    seed: fc.constantFrom('a', 'b', 'c'),
    layers: fc.nat(4),
    names: fc.uniqueArray(fc.constantFrom('x:1', 'y:1', 'x:2', 'ghcr.io/o/z:t'), { maxLength: 2 }),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.uniqueArray(spec, { minLength: 1, maxLength: 3, selector: (s) => `${s.seed} ${s.layers}` }),
      async (specs) => {
        const taken = new Set<string>();
        const made = specs.map(({ seed, layers, names }) => {
          const own = names.filter((name) => !taken.has(name));
          for (const name of own) taken.add(name);
          return { image: makeImage(seed, { layers }), names: own };
        });
        const open = opener(...made.map((one) => one.image));
        const images = made.map((one) => toSave(one.image, one.names.map(full)).image);
        // An image without names stands in the group of the unnamed; readers give images in the order of their groups.
        const wanted = made.map(({ image, names }) => ({
          names: names.map(full),
          config: image.config,
          layers: image.tars.map((t) => digestOf(t)),
        }));
        const sorted = (list: readonly { config: string; names: readonly string[] }[]): unknown =>
          [...list].sort((a, b) => (a.config < b.config ? -1 : 1));
        for (const plan of [planOci, planDocker]) {
          const bytes = await collect(plan(images, open));
          assert.deepEqual(await collect(plan(images, open)), bytes);
          await writeFile(`${dir.path}/a.tar`, bytes);
          assert.deepEqual(sorted(await contentOf(`${dir.path}/a.tar`)), sorted(wanted));
        }
      },
    ),
    { numRuns: 40 },
  );
});

test('layoutMembers() make a layout directory whose manifests are those that savedManifest() announces', async () => {
  await using dir = await scratch();
  const { image, open } = toSave(makeImage('a'), ['docker.io/library/x:1']);
  for (const member of layoutMembers([image], open)) {
    const path = `${dir.path}/${member.name}`;
    if (member.type === 'directory') await mkdir(path);
    else await writeFile(path, member.content instanceof Uint8Array ? member.content : await collect(member.content));
  }
  const [read] = await imagesOf(dir.path);
  assert.equal(read?.manifest?.digest, savedManifest(image));
  assert.deepEqual(read?.names, image.names);
});

test('planOci() writes a shared layer once, and drops a digest that was of another manifest', async () => {
  const made = makeImage('a');
  const names = ['x:1', `y@${digestOf('m')}`, `z:1@${digestOf('m')}`];
  let opened = 0;
  const open = opener(made);
  const images = [toSave(made, names).image, toSave(made, []).image];
  const bytes = await collect(
    planOci(images, (layer) => {
      opened++;
      return open(layer);
    }),
  );
  assert.equal(opened, 2);
  await using dir = await scratch();
  await writeFile(`${dir.path}/a.tar`, bytes);
  assert.deepEqual(
    (await contentOf(`${dir.path}/a.tar`)).map((one) => one.names),
    [['x:1', 'z:1'].map(full)],
  );
});

test('planOci() fails where a layer is longer or shorter than announced, and stops at an abort', async () => {
  const made = makeImage('a');
  const { image, open } = toSave(made, []);
  for (const delta of [-1, 1]) {
    const layers = image.layers.map((layer) => ({ ...layer, sizeBytes: layer.sizeBytes + delta }));
    await assert.rejects(collect(planOci([{ ...image, layers }], open)), fails('corrupt', /announced/));
  }
  const reason = new Error('enough');
  await assert.rejects(
    collect(planOci([image], open, { signal: AbortSignal.abort(reason) })),
    (error) => error === reason,
  );
});

test('planOci() and planDocker() make what skopeo reads, and skopeo writes what openArchive() reads', async (t) => {
  if (!need(t, 'skopeo')) return;
  await using dir = await scratch();
  const made = makeImage('a', { layers: 3 });
  const { image, open } = toSave(made, ['docker.io/library/x:1']);
  const layers = made.tars.map((tar) => digestOf(tar));
  const skopeo = (...args: readonly string[]): string =>
    execFileSync('skopeo', ['--insecure-policy', '--tmpdir', dir.path, ...args], {
      encoding: 'utf8',
      timeout: 60_000,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
  await writeFile(`${dir.path}/oci.tar`, await collect(planOci([image], open)));
  await writeFile(`${dir.path}/docker.tar`, await collect(planDocker([image], open)));
  for (const from of [
    'oci-archive:oci.tar',
    'oci-archive:oci.tar:1',
    'docker-archive:oci.tar',
    'docker-archive:docker.tar',
    'docker-archive:docker.tar:docker.io/library/x:1',
  ]) {
    const [scheme, file, ...rest] = from.split(':');
    const source = [scheme, `${dir.path}/${file}`, ...rest].join(':');
    const seen = JSON.parse(skopeo('inspect', source)) as { Layers: string[]; Architecture: string };
    assert.deepEqual([seen.Layers, seen.Architecture], [layers, 'amd64'], from);
    for (const [i, to] of ['oci:D', 'oci:D:y:2', 'oci-archive:F:y:2', 'docker-archive:F:y:2'].entries()) {
      const path = `${dir.path}/${from.replaceAll(/[:/]/g, '_')}-${i}`;
      skopeo('copy', '-q', source, to.replace(/[DF]/, path));
      const [read] = await contentOf(path);
      assert.equal(read?.layers.length, 3, `${from} to ${to}`);
      assert.deepEqual(JSON.parse(read?.config ?? '').rootfs.diff_ids, layers);
      if (to.startsWith('docker')) assert.deepEqual(read?.layers, layers);
      assert.deepEqual(read?.names, to.includes('y:2') ? ['docker.io/library/y:2'] : []);
    }
  }
});

test('openArchive() reads archives that Python wrote, with members in any order', async (t) => {
  if (!need(t, 'python3')) return;
  await using dir = await scratch();
  const made = makeImage('a');
  const { image, open } = toSave(made, ['docker.io/library/x:1']);
  await writeFile(`${dir.path}/a.tar`, await collect(planOci([image], open)));
  const script = `import tarfile, sys
a = tarfile.open(sys.argv[1]); names = a.getmembers()[::-1]
for i, f in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)):
    with tarfile.open(sys.argv[1] + str(i), 'w', format=f) as b:
        for m in names:
            d = a.extractfile(m) if m.isfile() else None; m.name = './' + m.name; b.addfile(m, d); m.name = m.name[2:]
`;
  execFileSync('python3', ['-c', script, `${dir.path}/a.tar`], { timeout: 60_000 });
  const wanted = await contentOf(`${dir.path}/a.tar`);
  for (const i of [0, 1, 2]) assert.deepEqual(await contentOf(`${dir.path}/a.tar${i}`), wanted);
});
