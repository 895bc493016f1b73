import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { type ByteString, fromBytes, fromText, toBytes } from '../../src/base/bytes.ts';
import { type ErrorRecord, revive } from '../../src/base/errors.ts';
import { IDENTITY, type IdMaps } from '../../src/base/id-map.ts';
import type { LayerId } from '../../src/base/values.ts';
import type { DriverSettings, LayerDriver, MountOptions } from '../../src/driver/driver.ts';
import { parseLayerId } from '../../src/driver/ids.ts';
import { type InlinePerformer, inlinePerformer } from '../kit/inline-performer.ts';
import type { ChildRequest } from './driver-child.ts';

/** A driver on a directory of its own, with what a test looks at. */
export interface House extends AsyncDisposable {
  readonly driver: LayerDriver;
  readonly settings: DriverSettings;
  readonly perform: InlinePerformer;
  /** What it said, `warn …` and so on. */
  readonly said: string[];
}

export type Open = (settings: DriverSettings) => Promise<LayerDriver>;

export interface HouseOptions {
  readonly options?: readonly string[];
  readonly idMaps?: IdMaps;
  /** Default: `run` beside the home. */
  readonly run?: ByteString;
  readonly perform?: (real: InlinePerformer) => DriverSettings['perform'];
}

/** Opens a driver on `root/home`; all that is still mounted is unmounted at the end of the block. */
export async function openHouse(root: ByteString, open: Open, house: HouseOptions = {}): Promise<House> {
  mkdirSync(toBytes(root), { recursive: true });
  const perform = inlinePerformer();
  const said: string[] = [];
  const say = (level: string) => (message: string) => void said.push(`${level} ${message}`);
  const settings: DriverSettings = {
    home: `${root}/home` as ByteString,
    run: house.run ?? (`${root}/run` as ByteString),
    options: house.options ?? [],
    idMaps: house.idMaps ?? IDENTITY,
    log: { debug: say('debug'), info: say('info'), warn: say('warn') },
    perform: house.perform?.(perform) ?? perform,
  };
  const driver = await open(settings);
  return {
    driver,
    settings,
    perform,
    said,
    [Symbol.asyncDispose]: async () => {
      await driver[Symbol.asyncDispose]();
      await perform[Symbol.asyncDispose]();
    },
  };
}

export function id(name: string): LayerId {
  return parseLayerId(fromText(name));
}

/** Path below a layer's directory, for `node:fs`. */
export function below(path: ByteString, name: string): Buffer {
  return toBytes(`${path}/${fromText(name)}` as ByteString);
}

/** Everything below `directory`: type, mode, owner, and content or target of each path, sorted. */
export function dump(directory: ByteString): string[] {
  const lines: string[] = [];
  for (const name of readdirSync(toBytes(directory), 'buffer').map((entry) => fromBytes(entry))) {
    const path = `${directory}/${name}` as ByteString;
    const stat = lstatSync(toBytes(path));
    const what = stat.isSymbolicLink()
      ? readlinkSync(toBytes(path), 'latin1')
      : stat.isFile()
        ? readFileSync(toBytes(path), 'latin1')
        : '';
    lines.push(`${path} ${stat.mode.toString(8)} ${stat.uid}:${stat.gid} ${what}`);
    if (stat.isDirectory()) lines.push(...dump(path));
  }
  return lines.sort();
}

/** The end of its block kills it. */
export interface Child extends AsyncDisposable {
  readonly process: ChildProcess;
  readonly path: ByteString;
  dispose(): Promise<void>;
  /** Ends with SIGKILL. */
  kill(): Promise<void>;
}

/** Another process that mounts `layer` of the same home; `through` is put before its command (`unshare -m`). */
export async function mountInChild(
  house: House,
  layer: LayerId,
  options: MountOptions = {},
  through: readonly string[] = [],
): Promise<Child> {
  const { driver, settings } = house;
  const request: ChildRequest = { name: driver.name, home: driver.home, run: settings.run, id: layer, options };
  const file = new URL('./driver-child.ts', import.meta.url).pathname;
  const [command = '', ...args] = [...through, process.execPath, file, JSON.stringify(request)];
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const answer = async (): Promise<ByteString> => {
    const line = await lines.next();
    const said = JSON.parse(line.done === true ? '{}' : line.value) as { path?: ByteString; error?: ErrorRecord };
    if (said.path !== undefined) return said.path;
    throw said.error === undefined ? new Error('the child ended') : revive(said.error);
  };
  const end = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  };
  try {
    const path = await answer();
    const dispose = async (): Promise<void> => {
      child.stdin.write('dispose\n');
      await answer();
    };
    return { process: child, path, dispose, kill: end, [Symbol.asyncDispose]: end };
  } catch (error) {
    await end();
    throw error;
  }
}
