import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isRequired } from './require.ts';

/** What the kernel takes as a socket's path. */
const SOCKET_PATH_BYTES_MAX = 107;
const START_MS_MAX = 30_000;
const STOP_MS_MAX = 20_000;

/** Programs of other engines: those of one directory first, then the system's. */
export interface Peers {
  readonly directory: string | undefined;
  /** PATH for an engine of that place: it finds its helpers there, those of the system after those of the directory. */
  pathIn(where: PeersPlace): string;
  /** Absolute path of a program, or undefined. */
  find(program: string): string | undefined;
  /** As `find`, only in the directory, or only outside of it. */
  findIn(where: PeersPlace, program: string): string | undefined;
}

export type PeersPlace = 'directory' | 'system';

/** `directory` holds today's engines (LAYERSTORE_PEERS where absent); a distribution's are in its usual places. */
export function peersIn(directory: string | undefined = process.env['LAYERSTORE_PEERS'] || undefined): Peers {
  // Before PATH: a wrapper of the same name may stand there.
  const system = ['/usr/sbin', '/usr/bin', '/sbin', '/bin', ...(process.env['PATH'] ?? '').split(':')];
  const own = directory === undefined ? [] : [directory];
  const look = (dirs: readonly string[], program: string): string | undefined =>
    dirs.map((dir) => join(dir, program)).find((file) => existsSync(file));
  return {
    directory,
    pathIn: (where) => [...(where === 'directory' ? own : []), ...system].join(':'),
    find: (program) => look([...own, ...system], program),
    findIn: (where, program) => look(where === 'directory' ? own : system, program),
  };
}

/** A daemon of our own; disposing ends it, by its process id, and what it left running. */
export interface Daemon extends AsyncDisposable {
  readonly pid: number;
  readonly socket: string;
  /** Where its output went. */
  readonly logFile: string;
}

export interface DockerdOptions {
  readonly dockerd: string;
  /** PATH of the daemon: it starts containerd and runc from there. */
  readonly path: string;
  /** Absent: its own choice, from docker 29 on containerd's store. */
  readonly driver?: string;
}

/** dockerd without a network, everything below the existing `directory`. */
export async function startDockerd(directory: string, options: DockerdOptions): Promise<Daemon> {
  const at = (name: string): string => join(directory, name);
  const socket = at('docker.sock');
  const quiet = ['--iptables=false', '--ip6tables=false', '--bridge=none', '--ip-forward=false', '--ip-masq=false'];
  const places = ['--data-root', at('docker'), '--exec-root', at('docker-exec'), '--pidfile', at('docker.pid')];
  // A configuration of the machine's own dockerd is not for this one.
  writeFileSync(at('daemon.json'), '{}');
  const config = ['--config-file', at('daemon.json'), '-H', `unix://${socket}`];
  const driver = options.driver === undefined ? [] : [`--storage-driver=${options.driver}`];
  return startDaemon(directory, socket, options.dockerd, [...quiet, ...places, ...config, ...driver], options.path);
}

export interface ContainerdOptions {
  readonly containerd: string;
  readonly path: string;
  /** More of its configuration (TOML, version 2). */
  readonly config?: string;
}

/** containerd without CRI, everything below the existing `directory`. */
export async function startContainerd(directory: string, options: ContainerdOptions): Promise<Daemon> {
  const at = (name: string): string => join(directory, name);
  const socket = at('containerd.sock');
  const lines = [
    'version = 2',
    `root = "${at('containerd')}"`,
    `state = "${at('containerd-state')}"`,
    'disabled_plugins = ["io.containerd.grpc.v1.cri"]',
    `[grpc]\n  address = "${socket}"`,
    `[ttrpc]\n  address = "${at('containerd.ttrpc')}"`,
    options.config ?? '',
  ];
  writeFileSync(at('containerd.toml'), `${lines.join('\n')}\n`);
  return startDaemon(directory, socket, options.containerd, ['-c', at('containerd.toml')], options.path);
}

async function startDaemon(
  directory: string,
  socket: string,
  program: string,
  args: readonly string[],
  path: string,
): Promise<Daemon> {
  if (Buffer.byteLength(socket) > SOCKET_PATH_BYTES_MAX)
    throw new Error(`Cannot start ${program}: ${socket} is too long`);
  mkdirSync(directory, { recursive: true });
  const logFile = join(directory, 'daemon.log');
  const log = openSync(logFile, 'a');
  const env = { PATH: path, HOME: directory, TMPDIR: directory };
  const child = spawn(program, args, { stdio: ['ignore', log, log], env, detached: true });
  closeSync(log); // or the filesystem that it lies on would stay as long as we do
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()).once('error', () => resolve()));
  const daemon: Daemon = {
    pid: child.pid ?? -1,
    socket,
    logFile,
    [Symbol.asyncDispose]: () => end(child, ended),
  };
  for (const until = Date.now() + START_MS_MAX; !(await answers(socket)); await sleep(50)) {
    const dead = child.exitCode !== null || child.pid === undefined;
    if (!dead && Date.now() < until) continue;
    await daemon[Symbol.asyncDispose]();
    const tail = readFileSync(logFile, 'utf8').split('\n').slice(-6).join('\n');
    throw new Error(`${program} ${dead ? 'ended' : 'did not come up'}: ${tail}`);
  }
  return daemon;
}

/** A socket that takes a connection belongs to a daemon that is up: both open it last. */
function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = connect(socket, () => {
      connection.destroy();
      resolve(true);
    });
    connection.once('error', () => resolve(false));
  });
}

async function end(child: ChildProcess, ended: Promise<void>): Promise<void> {
  if (child.pid === undefined) return;
  child.kill('SIGTERM');
  const late = setTimeout(() => {
    // Its group: a containerd that it started goes with it.
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  }, STOP_MS_MAX);
  await ended;
  clearTimeout(late);
}

/**
 * True when all `programs` are in the directory of the peers, or in the system's places. Otherwise skips the test with
 * the reason, or fails it where `peers`, or such a program of the system's, `isRequired`.
 */
export function needPeers(t: TestContext, peers: Peers, where: PeersPlace, ...programs: readonly string[]): boolean {
  const missing = programs.filter((program) => peers.findIn(where, program) === undefined);
  if (missing.length === 0) return true;
  const places = where === 'system' ? 'PATH' : (peers.directory ?? 'LAYERSTORE_PEERS, which is not set');
  const reason = `no ${missing.join(', ')} in ${places}`;
  if ((where === 'system' ? missing : ['peers']).some(isRequired)) throw new Error(`REQUIRE names it, but: ${reason}`);
  t.skip(reason);
  return false;
}
