import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { bulk, ociTar } from '../kit/images.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { layerstore, shell } from './run-cli.ts';

// What a command writes is the same wherever standard output leads: files, pipes and sockets take it without Node's streams, a
// pipe or a socket whose reader is slow and a terminal with them.

interface Rig extends AsyncDisposable {
  readonly root: string;
  readonly path: string;
  /** Of `save big:1`, some hundred times what a pipe holds. */
  readonly saved: string;
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

async function rig(t: TestContext): Promise<Rig | undefined> {
  if (!need(t, 'root', 'mount')) return undefined;
  const dir = await scratch('output');
  const [root, archive, saved] = ['store', 'image.tar', 'saved.tar'].map((name) => join(dir.path, name)) as [
    string,
    string,
    string,
  ];
  writeFileSync(archive, ociTar({ layers: [bulk(3, 40, 200_000)], names: ['docker.io/library/big:1'] }));
  for (const args of [
    ['load', '-i', archive],
    ['save', 'big:1', '-o', saved],
  ]) {
    assert.equal(layerstore(root, args).status, 0);
  }
  return {
    root,
    path: dir.path,
    saved: sha256(readFileSync(saved)),
    [Symbol.asyncDispose]: () => dir[Symbol.asyncDispose](),
  };
}

test('files, pipes, slow readers and sockets get the same bytes', async (t) => {
  await using made = await rig(t);
  if (made === undefined || !need(t, 'python3')) return;
  const { root, path, saved } = made;
  const out = join(path, 'out');
  const sum = 'sha256sum | cut -d" " -f1';
  const socket =
    'import os,socket,subprocess,sys; a,b=socket.socketpair(); p=subprocess.Popen(sys.argv[1:],stdout=b.fileno()); b.close()\n' +
    'while (chunk := a.recv(65536)): os.write(1,chunk)\nsys.exit(p.wait())';
  const ways = {
    'a file': `$L save big:1 > ${out} && sha256sum < ${out} | cut -d" " -f1`,
    'a file that has something': `printf 12345 > ${out} && $L save big:1 >> ${out} && tail -c +6 ${out} | ${sum}`,
    'a pipe': `$L save big:1 | ${sum}`,
    'a pipe whose reader comes late': `$L save big:1 | (sleep 1; ${sum})`,
    'a pipe whose reader is slow': `$L save big:1 | (dd bs=1k count=64 status=none; sleep 1; cat) | ${sum}`,
    'a named pipe': `mkfifo ${out}.fifo && (cat ${out}.fifo | ${sum} & $L save big:1 > ${out}.fifo; wait)`,
    'a socket': `python3 -c '${socket}' "$L" save big:1 | ${sum}`,
    'a socket whose reader is slow': `python3 -c '${socket.replace('while', 'import time; time.sleep(1)\nwhile')}' "$L" save big:1 | ${sum}`,
  };
  for (const [way, line] of Object.entries(ways)) {
    const { stdout, stderr } = shell(root, `set -o pipefail; ${line} || echo "failed: $?"`);
    assert.equal(stdout.trim(), saved, `${way}: ${stderr}`);
  }
  assert.equal(shell(root, '$L save big:1 > /dev/null').status, 0);
});

test('a signal is heard while the reader of a pipe sleeps, by a command with threads and by one without', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  assert.equal(layerstore(made.root, ['create', '--name', 'job']).status, 0);
  const tree = layerstore(made.root, ['mount', 'job']).stdout.trim();
  for (let i = 0; i < 5000; i++) writeFileSync(join(tree, `a-name-of-some-length-${i}`), '');
  assert.equal(layerstore(made.root, ['umount', 'job']).status, 0);
  const pid = join(made.path, 'pid');
  for (const command of ['save big:1', 'changes job']) {
    const line = `(sleep 2; kill -TERM $(cat ${pid})) & (echo $BASHPID > ${pid}; exec $L ${command}) |
      (sleep 4; kill -0 $(cat ${pid}) 2>/dev/null && echo "it still runs"; cat > /dev/null)
      echo \${PIPESTATUS[0]}`;
    const { stdout, stderr } = shell(made.root, line);
    assert.deepEqual([stdout, stderr], ['130\n', 'layerstore: interrupted\n'], command);
  }
});

test('a socket of messages gets no part of an archive that is too long for one', async (t) => {
  await using made = await rig(t);
  if (made === undefined || !need(t, 'python3')) return;
  const program = `import socket,subprocess,sys,threading,time
a,b=socket.socketpair(socket.AF_UNIX,socket.SOCK_SEQPACKET)
got=[]
def read():
    while True: got.append(len(a.recv(1<<20)))
threading.Thread(target=read,daemon=True).start()
subprocess.run(sys.argv[1:],stdout=b.fileno()); time.sleep(0.5); print(sum(got))`;
  const { root } = made;
  assert.equal(layerstore(root, ['create', '--name', 'many', 'big:1']).status, 0);
  const tree = layerstore(root, ['mount', 'many']).stdout.trim();
  for (let i = 0; i < 100; i++) writeFileSync(join(tree, `some-${i}`), Buffer.alloc(40_000, i + 1));
  assert.equal(layerstore(root, ['umount', 'many']).status, 0);
  const size = Number(shell(root, '$L diff many | wc -c').stdout);
  const { stdout, stderr } = shell(root, `python3 -c '${program}' "$L" diff many`);
  assert.ok(size > 4_000_000 && [0, size].includes(Number(stdout)), `${stdout} of ${size}: ${stderr}`);
});

test('a commit and a list load no streams of Node, whatever they write to', async (t) => {
  await using made = await rig(t);
  if (made === undefined || !need(t, 'python3')) return;
  const { root, path } = made;
  assert.equal(layerstore(root, ['create', '--name', 'job', 'big:1']).status, 0);
  // Of an image that is there already the layer would be deleted elsewhere.
  const change = (text: string): void => {
    writeFileSync(join(layerstore(root, ['mount', 'job']).stdout.trim(), 'new'), text);
    assert.equal(layerstore(root, ['umount', 'job']).status, 0);
  };
  const [probe, told] = [join(path, 'probe.cjs'), join(path, 'told')];
  writeFileSync(
    probe,
    `process.on('exit', () => require('node:fs').writeFileSync(${JSON.stringify(told)}, process.moduleLoadList.join('\\n')));`,
  );
  const sockets =
    'import socket,subprocess,sys; a,b=socket.socketpair(); sys.exit(subprocess.call(sys.argv[1:],stdout=b.fileno(),stderr=b.fileno()))';
  for (const command of ['commit job made:1', 'changes job']) {
    for (const [i, to] of ['> /dev/null 2>&1', `> ${path}/out 2>&1`, '2>&1 | cat > /dev/null', 'sockets'].entries()) {
      change(`${command} ${to}`);
      const run = `"$L" ${command.replace('made:1', `made:${i}`)}`;
      const line = to === 'sockets' ? `python3 -c '${sockets}' ${run}` : `${run} ${to}`;
      assert.equal(shell(root, `set -o pipefail; ${line}`, { NODE_OPTIONS: `--require=${probe}` }).status, 0, line);
      const loaded = readFileSync(told, 'utf8').split('\n');
      assert.ok(loaded.includes('NativeModule internal/process/pre_execution'));
      const streams = loaded.filter((one) =>
        / (net|tty|zlib|crypto|stream|internal\/streams\/(?!utils)\w+)$/.test(one),
      );
      assert.deepEqual(streams, [], line);
    }
  }
});

test("nobody else's descriptor of a pipe is changed", async (t) => {
  await using made = await rig(t);
  if (made === undefined || !need(t, 'python3')) return;
  const program = `import fcntl,os,subprocess,sys
r,w=os.pipe()
assert subprocess.run(sys.argv[1:],stdout=w).returncode == 0
print(fcntl.fcntl(w,fcntl.F_GETFL) & os.O_NONBLOCK, os.read(r,65536).decode().split()[0])`;
  const { stdout, stderr } = shell(made.root, `python3 -c '${program}' "$L" images`);
  assert.deepEqual([stdout, stderr], ['0 NAME\n', '']);
});

test('standard output that is full, closed or read-only is told; standard error that is gone ends nothing', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  for (const [line, said] of [
    ['$L images > /dev/full', /^layerstore: Cannot write "standard output": no space left.*ENOSPC/],
    ['$L images >&-', /^layerstore: Cannot write "standard output"/],
    ['$L images 1< /dev/null', /^layerstore: Cannot write "standard output"/],
  ] as const) {
    const { status, stderr } = shell(made.root, line);
    assert.match(stderr, said, line);
    assert.notEqual(status, 0, line);
  }
  const gone = shell(made.root, '$L save big:1 --log-level debug 2>&- | sha256sum | cut -d" " -f1');
  assert.equal(gone.stdout.trim(), made.saved);
});

test('a command does not have its output written to a disk before it ends', async (t) => {
  await using made = await rig(t);
  if (made === undefined || !need(t, 'strace')) return;
  const { root, path } = made;
  const [out, trace] = [join(path, 'out'), join(path, 'trace')];
  for (const command of ['save big:1', 'images', 'changes nothing', 'create --name one']) {
    shell(
      root,
      `strace -f -qq -o ${trace} -e trace=fsync,fdatasync,exit_group $L ${command} > ${out} 2> ${out}.errors`,
    );
    const calls = readFileSync(trace, 'utf8');
    assert.match(calls, /exit_group\(/, command);
    assert.doesNotMatch(calls, /sync\([12]\)/, command);
  }
});

test('standard descriptors have the flags that they had, whoever else has them', async (t) => {
  await using made = await rig(t);
  if (made === undefined || !need(t, 'python3')) return;
  const { root, path } = made;
  const told = join(path, 'told');
  const socket =
    'import socket,subprocess,sys; a,b=socket.socketpair(); subprocess.call(["sh","-c",sys.argv[1]],stdout=b.fileno())';
  const flagsOf = (fd: number): string => `grep flags /proc/self/fdinfo/${fd} > ${told}`;
  const ways: Readonly<Record<string, string>> = {
    'standard input, a pipe': `$L save big:1 | { $L load >&2; ${flagsOf(0)}; }`,
    'standard error, a pipe': `{ $L changes nothing; ${flagsOf(2)}; } 2>&1 | cat`,
    // A worker has Node make streams.
    'standard error, a pipe, of a command with threads': `{ $L check > /dev/null; ${flagsOf(2)}; } 2>&1 | cat`,
    'standard output, a pipe, of a command with threads': `{ $L check; ${flagsOf(1)}; } | cat`,
    'standard error, a pipe, of a load that fails': `{ $L load -i /dev/null > /dev/null; ${flagsOf(2)}; } 2>&1 | cat`,
    'standard output, a socket': `python3 -c '${socket}' "$L images; ${flagsOf(1).replace('$', '\\$')}"`,
  };
  for (const [way, line] of Object.entries(ways)) {
    const { stderr } = shell(root, line);
    const flags = Number.parseInt(/flags:\s*(\d+)/.exec(readFileSync(told, 'utf8'))?.[1] as string, 8);
    assert.equal(flags & 0o4000, 0, `${way} does not wait any more: ${stderr}`);
    rmSync(told);
  }
});
