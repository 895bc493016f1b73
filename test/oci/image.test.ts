import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { digestOf } from '../../src/base/digest.ts';
import { isStorageError } from '../../src/base/errors.ts';
import { applyChanges } from '../../src/oci/change.ts';
import { parseConfig } from '../../src/oci/config.ts';
import { commitConfig } from '../../src/oci/image.ts';

const created = '2026-01-02T03:04:05Z';
const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const read = (bytes: Buffer): Record<string, unknown> => JSON.parse(bytes.toString()) as Record<string, unknown>;

test('commitConfig() puts a layer on top and keeps what it does not know', () => {
  const [a, b] = [digestOf('a'), digestOf('b')];
  const base = json({
    architecture: 'arm64',
    os: 'linux',
    'x-vendor': [1, { y: null }],
    container: 'c',
    container_config: {},
    config: { Cmd: ['sh'], Healthcheck: { Interval: 30_000_000_000 } },
    rootfs: { type: 'layers', diff_ids: [a] },
    history: [{ created_by: 'base' }],
  });
  const options = { created, author: 'me', message: 'why', createdBy: 'npm ci', changes: ['ENV A=b'] };
  const bytes = commitConfig({ config: base, diffIds: [a] }, b, options);
  assert.deepEqual(read(bytes), {
    architecture: 'arm64',
    os: 'linux',
    'x-vendor': [1, { y: null }],
    config: { Cmd: ['sh'], Healthcheck: { Interval: 30_000_000_000 }, Env: ['A=b'] },
    rootfs: { type: 'layers', diff_ids: [a, b] },
    history: [{ created_by: 'base' }, { created, author: 'me', created_by: 'npm ci', comment: 'why' }],
    created,
    author: 'me',
  });
  assert.deepEqual(commitConfig({ config: base, diffIds: [a] }, b, options), bytes);
});

test('commitConfig() makes an image of layers that have none', () => {
  const [a, b] = [digestOf('a'), digestOf('b')];
  const made = parseConfig(
    commitConfig({ diffIds: [a] }, b, { created, platform: { os: 'linux', architecture: 's390x' } }),
    'it',
  );
  assert.deepEqual(made.diffIds, [a, b]);
  assert.deepEqual(made.platform, { os: 'linux', architecture: 's390x' });
});

test('commitConfig() has one non-empty history entry for each diff id, whatever the base had', () => {
  const entry = fc.record({ created_by: fc.string(), empty_layer: fc.boolean() }, { requiredKeys: [] });
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 8 }), fc.nat(5), (history, layers) => {
      const diffIds = Array.from({ length: layers }, (_, i) => digestOf(`${i}`));
      const config = json({ rootfs: { type: 'layers', diff_ids: diffIds }, history });
      const made = parseConfig(commitConfig({ config, diffIds }, digestOf('new'), { created }), 'it');
      assert.equal(made.history.filter((one) => !one.emptyLayer).length, made.diffIds.length);
      assert.equal(made.history.at(-1)?.emptyLayer, false);
    }),
    { numRuns: 300 },
  );
});

test('applyChanges() reads instructions as docker commit does', () => {
  const path = { Env: ['PATH=/bin', 'N=1'] };
  const table: readonly (readonly [readonly string[], object, object])[] = [
    [['CMD ["a", "b c"]'], {}, { Cmd: ['a', 'b c'] }],
    [['CMD echo $HOME "x y"'], {}, { Cmd: ['/bin/sh', '-c', 'echo $HOME "x y"'] }],
    [['CMD [ -e x ] && y'], {}, { Cmd: ['/bin/sh', '-c', '[ -e x ] && y'] }],
    [['cmd x'], { Shell: ['bash', '-ec'] }, { Shell: ['bash', '-ec'], Cmd: ['bash', '-ec', 'x'] }],
    [['CMD []'], { Cmd: ['a'] }, { Cmd: [] }],
    [['ENTRYPOINT ["e"]'], { Cmd: ['a'] }, { Entrypoint: ['e'] }],
    [['CMD ["c"]', 'ENTRYPOINT ["e"]'], { Cmd: ['a'] }, { Cmd: ['c'], Entrypoint: ['e'] }],
    [['ENTRYPOINT ["e"]', 'CMD ["c"]'], { Cmd: ['a'] }, { Entrypoint: ['e'], Cmd: ['c'] }],
    [['ENV A=b=c D="x  y" E=\'$N\' F=a\\ b'], {}, { Env: ['A=b=c', 'D=x  y', 'E=$N', 'F=a b'] }],
    [['ENV A some  long "value"'], {}, { Env: ['A=some  long value'] }],
    [['ENV A=x', 'ENV A=y', 'ENV N=2'], path, { Env: ['PATH=/bin', 'N=2', 'A=y'] }],
    [[`ENV PATH=$PATH:/x:\${N}:\${Q:-q}:\${N:+n}$`], path, { Env: ['PATH=/bin:/x:1:q:n$', 'N=1'] }],
    [['ENV N=2 M=$N'], path, { Env: ['PATH=/bin', 'N=2', 'M=1'] }],
    [['ENV N='], path, { Env: ['PATH=/bin', 'N='] }],
    [
      ['LABEL "a b"=c d="e=f \\"g\\""', 'LABEL __proto__=p'],
      {},
      { Labels: JSON.parse('{"a b":"c","d":"e=f \\"g\\"","__proto__":"p"}') },
    ],
    [
      ['EXPOSE 80 53/UDP 90-92'],
      { ExposedPorts: { '1/tcp': {} } },
      { ExposedPorts: { '1/tcp': {}, '80/tcp': {}, '53/udp': {}, '90/tcp': {}, '91/tcp': {}, '92/tcp': {} } },
    ],
    [['ONBUILD RUN a  b', 'ONBUILD CMD x'], {}, { OnBuild: ['RUN a  b', 'CMD x'] }],
    [['USER  me:grp '], {}, { User: 'me:grp' }],
    [['VOLUME /a /b', 'VOLUME ["/c d"]'], {}, { Volumes: { '/a': {}, '/b': {}, '/c d': {} } }],
    [['WORKDIR a', 'WORKDIR ../b/'], { WorkingDir: '/w' }, { WorkingDir: '/w/b' }],
    [['WORKDIR x'], {}, { WorkingDir: '/x' }],
  ];
  for (const [changes, before, after] of table) {
    const made = applyChanges(before as never, changes);
    assert.equal(JSON.stringify(made), JSON.stringify(after), changes.join(' | '));
  }
});

test('applyChanges() refuses what it cannot read', () => {
  const bad = [
    '',
    'RUN x',
    'FROM y',
    'constructor x',
    'ENV',
    'ENV A',
    'ENV A=b C',
    'ENV =x',
    'ENV A="b',
    "ENV A='b",
    'ENV A=${b',
    `ENV A=\${b?c}`,
    'LABEL',
    'EXPOSE',
    'EXPOSE x',
    'EXPOSE 70000',
    'EXPOSE 2-1',
    'EXPOSE 1/icmp',
    'ONBUILD',
    'ONBUILD FROM x',
    'ONBUILD onbuild y',
    'USER',
    'VOLUME',
    'VOLUME [""]',
    'VOLUME [1]',
    'CMD [1]',
    'WORKDIR',
    'ENV A=b\nUSER x',
  ];
  for (const change of bad)
    assert.throws(
      () => applyChanges({}, [change]),
      (error) => isStorageError(error, 'invalid-argument'),
      change,
    );
});
