import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { layerstore } from '../doors/run-cli.ts';
import { filesystem } from '../kit/filesystems.ts';
import { ociTar } from '../kit/images.ts';
import { directory, file, hardlink, layer, opaque, symlink, whiteout } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';

// facts.md, hazards 5 and 6: a jailed thread resolves every path in the layer, so it may load nothing and leave nothing.

const CHILD = fileURLToPath(new URL('./load-child.ts', import.meta.url));
const SOURCES = fileURLToPath(new URL('../../src', import.meta.url));
const LAUNCHER = fileURLToPath(new URL('../../bin/layerstore', import.meta.url));
const TRACED =
  'trace=open,openat,openat2,execve,execveat,chroot,write,clone,clone3,mmap,stat,newfstatat,statx,access,faccessat2,readlink';
const EVIL = 'throw new Error("the layer was loaded as code")';

/** What a process might look for behind its own back, and every file of ours under its own path. */
function baits(): string[] {
  const multiarch = process.arch === 'arm64' ? 'aarch64-linux-gnu' : 'x86_64-linux-gnu';
  const libraries = [
    'libnss_files.so.2',
    'libnss_dns.so.2',
    'libnss_compat.so.2',
    'libgcc_s.so.1',
    'libc.so.6',
    'libm.so.6',
  ];
  const own = readdirSync(SOURCES, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
  const modules = dirname(fileURLToPath(import.meta.resolve('koffi')));
  return [
    ...[
      'nsswitch.conf',
      'localtime',
      'timezone',
      'passwd',
      'group',
      'hosts',
      'resolv.conf',
      'ld.so.cache',
      'ld.so.preload',
    ].map((name) => `etc/${name}`),
    ...['openssl.cnf', 'gconv/gconv-modules', 'locale/locale-archive'].flatMap((name) => [
      `etc/ssl/${name}`,
      `usr/lib/ssl/${name}`,
      `usr/lib/${name}`,
    ]),
    ...libraries.flatMap((name) => [
      `lib/${multiarch}/${name}`,
      `usr/lib/${multiarch}/${name}`,
      `lib64/${name}`,
      `usr/lib/${name}`,
    ]),
    ...['Etc/UTC', 'Europe/Berlin', 'UTC'].map((zone) => `usr/share/zoneinfo/${zone}`),
    ...own.map((name) => `${SOURCES}/${name}`.slice(1)),
    ...['package.json', 'index.js', 'index.cjs', 'build/koffi/linux_x64/koffi.node'].map((name) =>
      `${modules}/${name}`.slice(1),
    ),
    `${process.execPath}`.slice(1),
    'proc/self/exe',
    'proc/self/maps',
    'proc/meminfo',
    'sys/fs/cgroup/memory.max',
    'dev/urandom',
    'dev/null',
    'tmp/coverage/x.json',
    'package.json',
    '.npmrc',
  ];
}

/** One image for all: deletions, copies of lower files, implied directories, errors at the end where asked for. */
function image(failing: boolean, reports: string, names: readonly string[] = []): Buffer {
  const base = layer(
    directory(`${reports}/`, { mode: 0o1777 }),
    ...baits().map((name) => file(name, EVIL)),
    directory('d/'),
    file('d/lower', 'l'),
  );
  const top = layer(
    ...baits().map((name) => file(name, `${EVIL} again`)),
    hardlink('copied', 'd/lower'),
    file('d/new', 'n'),
    symlink('link', '/etc'),
    file('link/implied/f', 'x'),
    whiteout('etc/hosts'),
    opaque('usr/share'),
    file('twice/a'),
    file('twice', 'replaces a directory'),
    ...(failing ? [hardlink('broken', 'nowhere')] : []),
  );
  return ociTar({ layers: [base, top], names });
}

for (const driver of DRIVERS) {
  for (const failing of [false, true]) {
    test(`load() opens nothing of a layer while it ${failing ? 'fails to unpack' : 'unpacks'} it (${driver})`, async (t) => {
      if (!need(t, 'root', 'mount', 'strace')) return;
      await using disk = await filesystem('tmpfs');
      writeFileSync(`${disk.path}/image.tar`, image(failing, 'tmp'));
      const trace = `${disk.path}/trace`;
      const child = spawnSync(
        'strace',
        [
          '-f',
          '-qq',
          '-y',
          '-s',
          '300',
          '-o',
          trace,
          '-e',
          TRACED,
          process.execPath,
          CHILD,
          `${disk.path}/store`,
          driver,
          `${disk.path}/image.tar`,
        ],
        { encoding: 'utf8', timeout: 120_000 },
      );
      assert.equal(child.status, 0, child.stderr);
      if (failing) assert.equal(child.stdout, 'corrupt\n');
      const { jailed, foreign } = jailedCalls(readFileSync(trace, 'utf8'));
      assert.ok(
        jailed > 500,
        `only ${jailed} calls were seen inside a jail: the trace is not what the test takes it for`,
      );
      assert.deepEqual(foreign, []);
    });
  }
}

for (const failing of [false, true]) {
  test(`commit opens nothing of a layer while the command's own thread ${failing ? 'fails to unpack' : 'unpacks'} it`, async (t) => {
    if (!need(t, 'root', 'mount', 'strace')) return;
    await using disk = await filesystem('tmpfs');
    const root = `${disk.path}/store`;
    const done = (...args: string[]): string => {
      const { status, stdout, stderr } = layerstore(root, args);
      assert.equal(status, 0, stderr);
      return stdout.trim();
    };
    writeFileSync(`${disk.path}/image.tar`, image(false, 'tmp', ['docker.io/library/baits:1']));
    done('load', '-i', `${disk.path}/image.tar`);
    done('create', 'baits:1', '--name', 'work');
    const at = done('mount', 'work');
    for (const name of baits()) {
      mkdirSync(dirname(`${at}/${name}`), { recursive: true });
      writeFileSync(`${at}/${name}`, `${EVIL} once more`);
    }
    rmSync(`${at}/d`, { recursive: true });
    done('umount', 'work');
    const trace = `${disk.path}/trace`;
    const options = ['-f', '-qq', '-y', '-s', '300', '-o', trace, '-e', `${TRACED},setns,utimensat`];
    if (failing) options.push('-e', 'inject=utimensat:error=EIO:when=60');
    const child = spawnSync('strace', [...options, LAUNCHER, '--root', root, 'commit', 'work', 'new:1'], {
      encoding: 'utf8',
      timeout: 120_000,
    });
    assert.equal(child.status, failing ? 7 : 0, child.stderr);
    const { jailed, foreign } = jailedCalls(readFileSync(trace, 'utf8'));
    assert.ok(jailed > (failing ? 60 : 300), `only ${jailed} calls were seen inside a jail`);
    assert.deepEqual(foreign, []);
  });
}

/**
 * Walks an strace output: calls of a thread between its chroot into a layer and its chroot back. Foreign is each that
 * opens by a path which is not relative to a descriptor, that opens without O_EXCL, O_PATH or O_DIRECTORY what the
 * applier did not make, or that maps or runs a file.
 */
function jailedCalls(trace: string): { readonly jailed: number; readonly foreign: readonly string[] } {
  const inside = new Map<string, boolean>();
  const moved = new Set<string>();
  const foreign: string[] = [];
  const names = baits();
  let jailed = 0;
  for (const text of trace.split('\n')) {
    const [, pid = '', call = ''] = /^(\d+) +(.*)$/.exec(text) ?? [];
    // To another namespace and its root, which is no jail.
    if (call.startsWith('setns(')) moved.add(pid);
    else if (call.startsWith('chroot(') && !moved.delete(pid)) inside.set(pid, inside.get(pid) !== true);
    if (/^(setns|chroot|utimensat)\(/.test(call)) continue;
    if (inside.get(pid) !== true) continue;
    jailed++;
    // A file of a layer below is read when a hard link wants it: by one name in an open directory, and no bait.
    const opened = /^openat\(\d+<[^"]*"[^"/]*", O_RDONLY\|O_NONBLOCK\|O_NOFOLLOW\|O_CLOEXEC\) = \d+<([^>]*)>/.exec(
      call,
    )?.[1];
    if (opened !== undefined && !names.some((name) => opened.endsWith(`/${name}`))) continue;
    const harmless =
      /^(statx|newfstatat)\(\d+</.test(call) || // relative to a descriptor
      /^openat2?\(\d+<[^"]*"[^/][^"]*", ?\{?(flags=)?O_[A-Z_|]*(O_PATH|O_DIRECTORY|O_EXCL)/.test(call) ||
      /^openat\(AT_FDCWD<[^"]*"\/", O_RDONLY\|O_CLOEXEC\|O_PATH\|O_DIRECTORY/.test(call) || // the root itself
      /^mmap\(.*MAP_ANONYMOUS/.test(call) ||
      /^write\(/.test(call) ||
      /^<\.\.\. /.test(call); // the end of a call that was seen when it began
    if (!harmless) foreign.push(call);
  }
  return { jailed, foreign };
}

for (const driver of DRIVERS) {
  test(`load() makes the same tree under coverage, profiling and a preload, and leaves nothing in it (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs');
    const reports = `${disk.path}/reports`; // in the layer, too, so that a thread in a jail could write there
    writeFileSync(`${disk.path}/image.tar`, image(false, reports));
    writeFileSync(
      `${disk.path}/preload.cjs`,
      `require('fs').appendFileSync(${JSON.stringify(`${disk.path}/preloaded`)}, 'x');`,
    );
    const run = (name: string, flags: readonly string[], env: NodeJS.ProcessEnv): string => {
      const child = spawnSync(
        process.execPath,
        [...flags, CHILD, `${disk.path}/${name}`, driver, `${disk.path}/image.tar`],
        {
          encoding: 'utf8',
          env: { PATH: process.env['PATH'], ...env },
          timeout: 120_000,
        },
      );
      assert.equal(child.status, 0, child.stderr);
      return child.stdout;
    };
    const plain = run('plain', [], {});
    assert.ok(plain.includes('"/copied" file'), plain.slice(0, 1000));
    assert.equal(run('coverage', [], { NODE_V8_COVERAGE: reports }), plain);
    assert.equal(run('profile', ['--cpu-prof', `--cpu-prof-dir=${reports}`], {}), plain);
    assert.equal(run('heap', ['--heap-prof', `--heap-prof-dir=${reports}`], {}), plain);
    assert.ok(readdirSync(reports).length >= 3, 'the flags had no effect at all');
    assert.equal(run('preload', [], { NODE_OPTIONS: `--require ${disk.path}/preload.cjs` }), plain);
    assert.equal(readFileSync(`${disk.path}/preloaded`, 'utf8'), 'x', 'only the program itself is preloaded');
  });
}
