import type { Worker } from 'node:worker_threads';
import type { ByteString } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import { revive, type StorageError } from '../base/errors.ts';
import type { DriverName } from '../base/values.ts';
import { startWorker } from '../base/worker.ts';
import { threadEnd } from '../base/working-directory.ts';
import type { Answer, Question } from './database-thread.ts';
import { imageKey } from './image-key.ts';
import { type Layout, layoutOf, refusal } from './layout.ts';
import { beginSession, deadAmong, type Session } from './makers.ts';
import { type Patience, patiently } from './patience.ts';
import type {
  BlobRow,
  Commit,
  Committed,
  LayerRow,
  Making,
  ManifestRow,
  NewWritable,
  Opened,
  Pinned,
  Removal,
  Requests,
  WritableRow,
} from './rows.ts';
import type { Fault, Image, StoredLayer } from './types.ts';

export interface DatabaseOptions {
  /** false: where there is no store, `not-found`. */
  readonly create: boolean;
  /** What the user asked for: a store with another driver is `failed-precondition`. */
  readonly asked?: DriverName;
  /** Names the driver of a store that is to be made in `root`, which exists. What it throws, nothing is left of. */
  readonly choose: (root: ByteString) => Promise<DriverName>;
  /** Of all requests; default 10,000 ms. */
  readonly patience?: Partial<Patience>;
  /** Ends the opening. */
  readonly signal?: AbortSignal;
  /** true: no thread is started, requests are done where they are asked, and the asker's thread does nothing else meanwhile. */
  readonly inline?: boolean;
}

/** A request blocks its thread that long while others hold the database; then it is asked again. */
const LOCK_MS = { inline: 2, thread: 5 } as const;

/** The loaded database of the store at `root`, an absolute path, made where there is none. */
export async function openDatabase(root: ByteString, options: DatabaseOptions): Promise<Database> {
  const { asked, signal, inline = false } = options;
  const thread = inline ? await startInline(root) : new Thread(root);
  const { ms = 10_000, signal: heeded } = options.patience ?? {};
  const patience: Patience = heeded === undefined ? { ms } : { ms, signal: heeded };
  const patient = heeding(patience, signal);
  const opening = { create: options.create, lockMs: LOCK_MS[inline ? 'inline' : 'thread'] };
  try {
    let opened = await patiently(() => thread.ask('open', root, opening), patient);
    if (opened === undefined) {
      const driver = await options.choose(root);
      opened = await patiently(() => thread.ask('make', driver), patient);
    }
    if (asked !== undefined && asked !== opened.driver) {
      throw refusal(
        'failed-precondition',
        opened.root,
        `it was made with the driver ${opened.driver}, not ${asked}; leave the driver out, or name another root`,
      );
    }
    return new Database(thread, opened, patience);
  } catch (error) {
    await thread.ask('abandon').catch(() => undefined); // the first failure is the one to tell
    await thread.close();
    throw error;
  }
}

function closedHandle(root: ByteString): StorageError {
  return refusal('failed-precondition', root, 'this handle of it is closed; open it again');
}

/** Whoever answers what is asked of the database. */
interface Asked {
  ask<K extends keyof Requests>(ask: K, ...values: Parameters<Requests[K]>): Promise<ReturnType<Requests[K]>>;
  /** After what was asked before it; safe to repeat. */
  close(): Promise<void>;
}

/** In this thread: loaded only where it is wanted. */
async function startInline(root: ByteString): Promise<Asked> {
  const { answering } = await import('./database-requests.ts');
  const requests = answering();
  let closed = false;
  return {
    async ask(ask, ...values) {
      if (closed) throw closedHandle(root);
      return (requests[ask] as (...values: readonly unknown[]) => never)(...values);
    },
    async close() {
      if (!closed) requests.close();
      closed = true;
    },
  };
}

/** The far end of the database's thread. The thread keeps the process alive exactly while an answer is owed. */
class Thread implements Asked {
  readonly #root: ByteString;
  readonly #worker: Worker;
  readonly #owed = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  #asked = 0;
  #closed: Promise<void> | undefined;
  #dead: Error | undefined;

  constructor(root: ByteString) {
    this.#root = root;
    const module = new URL(`./database-thread.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`, import.meta.url);
    // Nothing of the caller's enters: no preload, no coverage, no profile (facts.md, hazard 6).
    this.#worker = startWorker(module, { name: 'layerstore database', env: {}, execArgv: [] });
    this.#worker.unref();
    this.#worker.on('message', (answer: Answer) => {
      const owed = this.#owed.get(answer.id);
      this.#owed.delete(answer.id);
      if (this.#owed.size === 0) this.#worker.unref();
      if ('error' in answer) owed?.reject(revive(answer.error));
      else owed?.resolve(answer.value as never);
    });
    this.#worker.on('error', (error) => this.#fail(error));
    this.#worker.on('exit', (code) => this.#fail(code));
  }

  #fail(end: Error | number): void {
    this.#dead ??= threadEnd('ask the database of the store', end);
    for (const { reject } of this.#owed.values()) reject(this.#dead);
    this.#owed.clear();
  }

  async ask<K extends keyof Requests>(ask: K, ...values: Parameters<Requests[K]>): Promise<ReturnType<Requests[K]>> {
    if (this.#closed !== undefined && ask !== 'close') {
      throw closedHandle(this.#root);
    }
    if (this.#dead !== undefined) throw this.#dead;
    const { promise, resolve, reject } = Promise.withResolvers<ReturnType<Requests[K]>>();
    const id = this.#asked++;
    if (this.#owed.size === 0) this.#worker.ref();
    this.#owed.set(id, { resolve, reject });
    this.#worker.postMessage({ id, ask, values } satisfies Question);
    return promise;
  }

  /** After what was asked before it; safe to repeat. */
  close(): Promise<void> {
    this.#closed ??= this.ask('close').then(
      () => undefined,
      () => undefined, // the thread has ended by itself: closed all the same
    );
    return this.#closed;
  }
}

/**
 * A store's metadata. Every method is one transaction among all processes that share the store: durable when it
 * resolves, without a trace when it rejects. Names of images are taken as people write them: a reference, or the
 * beginning of an id (`not-found`; `invalid-argument` where several begin so); `sha256:` and 64 digits are an id only.
 *
 * Nothing is on disk that the database does not know: `begin` before making a layer's directory or a file, `commit`
 * (or `createWritable`) or removal and `end` after it.
 */
export class Database implements AsyncDisposable {
  readonly layout: Layout;
  readonly driver: DriverName;
  readonly uuid: string;
  readonly #opened: Opened;
  readonly #thread: Asked;
  readonly #patience: Patience;
  readonly #use: Use;

  constructor(
    thread: Asked,
    opened: Opened,
    patience: Patience,
    use: Use = { pins: 0, closed: false, asking: new Set() },
  ) {
    this.#thread = thread;
    this.#opened = opened;
    this.#patience = patience;
    this.#use = use;
    this.layout = layoutOf(opened.root);
    this.driver = opened.driver;
    this.uuid = opened.uuid;
  }

  /** The same, to be asked with less patience; one of them is to be closed. */
  waiting({ ms = this.#patience.ms, signal }: Partial<Patience>): Database {
    return new Database(this.#thread, this.#opened, heeding({ ...this.#patience, ms }, signal), this.#use);
  }

  #ask<K extends keyof Requests>(ask: K, ...values: Parameters<Requests[K]>): Promise<ReturnType<Requests[K]>> {
    const { asking } = this.#use;
    const answer = patiently(() => this.#thread.ask(ask, ...values), this.#patience);
    asking.add(answer);
    const ended = (): void => void asking.delete(answer);
    answer.then(ended, ended);
    return answer;
  }

  room(...[wanted]: Parameters<Requests['room']>): Promise<void> {
    return this.#ask('room', wanted);
  }

  /** The latest first. */
  images(): Promise<Image[]> {
    return this.#ask('images');
  }

  image(name: string): Promise<Image> {
    return this.#ask('image', imageKey(name));
  }

  /** The layers of an image, bottom first. */
  imageLayers(name: string): Promise<LayerRow[]> {
    return this.#ask('imageLayers', imageKey(name));
  }

  /** The manifests an image came with, the first first. */
  manifests(image: Digest): Promise<ManifestRow[]> {
    return this.#ask('manifests', image);
  }

  /** What is known of these compressed blobs. */
  blobs(digests: readonly Digest[]): Promise<BlobRow[]> {
    return this.#ask('blobs', digests);
  }

  /**
   * Registers layers that are on disk and durable, with their images, names and blobs. Of layers whose chain id another
   * process registered meanwhile, the older stays and ours are `lost`, unless one of ours that stays lies on them.
   */
  async commitImages(commit: Commit): Promise<Committed> {
    return this.#ask('commit', commit, this.#maker());
  }

  /** `reference` is a full one. Answers the image it pointed to before, if another. */
  tag(name: string, reference: string): Promise<{ readonly movedFrom?: Digest }> {
    return this.#ask('tag', imageKey(name), reference);
  }

  /**
   * Takes names away, and images with their last; by id, all names only with `force`, else *busy* where there are
   * several. An image with writable layers on it is *busy*. Refused for one, nothing is taken away.
   */
  removeImages(names: readonly string[], options: { readonly force?: boolean } = {}): Promise<Removal> {
    return this.#ask('removeImages', names.map(imageKey), options.force ?? false);
  }

  /** What the layer lies on, bottom first. */
  layersBelow(driverId: string): Promise<LayerRow[]> {
    return this.#ask('layersBelow', driverId);
  }

  layerByDriverId(driverId: string): Promise<LayerRow | undefined> {
    return this.#ask('layer', driverId);
  }

  /** The layers of those chain ids that are there, in the order asked. They may be gone a moment later: see `pin`. */
  layersByChain(chainIds: readonly Digest[]): Promise<LayerRow[]> {
    return this.#ask('layersByChain', chainIds);
  }

  /** The chain ids that a text of people begins: up to 6, none where it is no part of an id. */
  async chainsFrom(text: string): Promise<Digest[]> {
    const { prefix } = imageKey(text);
    return prefix === undefined ? [] : this.#ask('chainsFrom', prefix);
  }

  /**
   * As `layersByChain`, and none of them is removed until `commitImages` with this pin, `unpin`, or this handle's end.
   * `makings`: announced with it, as `begin` does.
   */
  async pin(chainIds: readonly Digest[], makings: readonly Making[] = []): Promise<Pinned> {
    const pin = `${this.#maker().session}/${this.#use.pins++}`;
    return { pin, layers: await this.#ask('pin', pin, chainIds, makings, this.#maker()) };
  }

  unpin(pin: string): Promise<void> {
    return this.#ask('unpin', pin);
  }

  /** Layers of images with their users, bottom first: of one image, or of all. */
  storedLayers(name?: string): Promise<StoredLayer[]> {
    return this.#ask('storedLayers', name === undefined ? undefined : imageKey(name));
  }

  /**
   * The row of a writable layer whose directory was announced and made: so that nobody who opens meanwhile finds a row
   * without one. Ends the announcement. A name that is taken is `already-exists`, a base that is not there `not-found`.
   */
  createWritable(writable: NewWritable): Promise<WritableRow> {
    return this.#ask('createWritable', writable);
  }

  /** By name, else by the beginning of an id. */
  writable(name: string): Promise<WritableRow> {
    return this.#ask('writable', name);
  }

  /** Sorted by name. */
  writables(): Promise<WritableRow[]> {
    return this.#ask('writables');
  }

  /** Takes the row away and leaves the directory announced: remove it, then `end` it, or `createWritable` it again. */
  async removeWritable(driverId: string): Promise<void> {
    return this.#ask('removeWritable', driverId, this.#maker());
  }

  /** Announces what is about to be made. Names must not have been used before: an old one is `already-exists`. */
  async begin(makings: readonly Making[]): Promise<void> {
    return this.#ask('begin', makings, this.#maker());
  }

  /** Forgets what was announced and is gone from disk. */
  end(makings: readonly Making[]): Promise<void> {
    return this.#ask('end', makings);
  }

  /** What dead makers left: remove each from disk, then `end` it. Others may be doing the same. */
  async staleMakings(): Promise<Making[]> {
    await this.#bury();
    return this.#ask('stale');
  }

  /** Layers that nothing reaches, children first: for `removeLayers`. */
  async unreachable(): Promise<LayerRow[]> {
    await this.#bury();
    return this.#ask('unreachable');
  }

  /**
   * Takes away the rows of those layers (children first) that nothing refers to at this moment, and answers them;
   * directory and files (`makingsOf`) stay announced: remove them from disk, then `end` them.
   */
  async removeLayers(driverIds: readonly string[]): Promise<LayerRow[]> {
    return this.#ask('removeLayers', driverIds, this.#maker());
  }

  /** Every layer, parents first. */
  allLayers(): Promise<LayerRow[]> {
    return this.#ask('layers');
  }

  /** Those of `driverIds` that are layers, or that somebody is making or removing. */
  known(driverIds: readonly string[]): Promise<string[]> {
    return this.#ask('known', driverIds);
  }

  counts(): Promise<{ readonly images: number; readonly layers: number; readonly writable: number }> {
    return this.#ask('counts');
  }

  /** Faults inside the database; what is on disk is not looked at. */
  check(): Promise<Fault[]> {
    return this.#ask('check');
  }

  async #bury(): Promise<void> {
    const dead = deadAmong(this.layout.sessions, await this.#ask('sessions'));
    if (dead.length > 0) await this.#ask('bury', dead);
  }

  // Begun at first need: who only reads leaves nothing in the run directory.
  #maker(): { session: string; pid: number } {
    const use = this.#use;
    if (use.closed) throw closedHandle(this.layout.root);
    use.session ??= beginSession(this.layout.sessions);
    return { session: use.session.name, pid: process.pid };
  }

  /** After what was asked before it. What this handle was still making is from then on anybody's to remove. */
  async [Symbol.asyncDispose](): Promise<void> {
    const use = this.#use;
    use.closed = true;
    await Promise.allSettled(use.asking);
    await this.#thread.close();
    use.session?.end();
    delete use.session;
  }
}

function heeding(patience: Patience, signal: AbortSignal | undefined): Patience {
  if (signal === undefined) return patience;
  return { ...patience, signal: patience.signal === undefined ? signal : AbortSignal.any([patience.signal, signal]) };
}

/** What all that ask one open database have in common. */
interface Use {
  pins: number;
  session?: Session;
  closed: boolean;
  /** What is not answered yet. */
  readonly asking: Set<Promise<unknown>>;
}
