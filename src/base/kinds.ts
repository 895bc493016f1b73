// How the library's surface looks at what it is given: a wrong type is a mistake in the program, so a TypeError, and
// told before anything is done. What is only unsuitable (a bad reference, an unknown layer) is a StorageError further in.

/** Looks at a value; answers what is wrong with it, to be put behind its name, or undefined. */
export type Kind = (value: unknown) => string | undefined;

/** Parameters in their order, each with its name. */
export type Signature = readonly (readonly [name: string, kind: Kind])[];

/** The methods of a surface that are looked at: those that answer a promise reject, those that answer a stream throw. */
export interface Signatures<T> {
  readonly rejects?: { readonly [K in keyof T]?: Signature };
  readonly throws?: { readonly [K in keyof T]?: Signature };
}

/** A kind that is one thing, in words with an article. */
export function is(what: string, holds: (value: unknown) => boolean): Kind {
  return (value) => (holds(value) ? undefined : ` must be ${what}, not ${shown(value)}`);
}

export const TEXT: Kind = is('a string', (value) => typeof value === 'string');
/** A path: text, or bytes where it is not UTF-8. */
export const PATH: Kind = is('a path', (value) => typeof value === 'string' || value instanceof Uint8Array);
export const FLAG: Kind = is('true or false', (value) => typeof value === 'boolean');
export const NUMBER: Kind = is('a number', (value) => typeof value === 'number' && !Number.isNaN(value));
export const FUNCTION: Kind = is('a function', (value) => typeof value === 'function');
export const SIGNAL: Kind = is('an AbortSignal', (value) => value instanceof AbortSignal);
export const STREAM: Kind = is('an async iterable of bytes', isStream);
export const SOURCE: Kind = is(
  'a path, an async iterable of bytes or a ReadableStream',
  (value) => typeof value === 'string' || isStream(value),
);

export function maybe(kind: Kind): Kind {
  return (value) => (value === undefined ? undefined : kind(value));
}

export function word(...words: readonly string[]): Kind {
  return is(`one of ${words.map((one) => `"${one}"`).join(', ')}`, (value) => words.includes(value as string));
}

export function listOf(kind: Kind): Kind {
  return (value) => {
    if (!Array.isArray(value)) return ` must be an array, not ${shown(value)}`;
    return first(value.map((one, i) => inside(`[${i}]`, kind(one))));
  };
}

/** An object with these fields; others are not looked at. */
export function record(fields: Readonly<Record<string, Kind>>): Kind {
  return (value) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      return ` must be an object, not ${shown(value)}`;
    }
    return first(Object.entries(fields).map(([name, kind]) => inside(`.${name}`, kind(Reflect.get(value, name)))));
  };
}

/** An options object that may be left out, as may each of its fields. */
export function options(fields: Readonly<Record<string, Kind>>): Kind {
  return maybe(record(Object.fromEntries(Object.entries(fields).map(([name, kind]) => [name, maybe(kind)]))));
}

/** Throws the TypeError of the first argument that is not of its kind. */
export function expect(call: string, signature: Signature, values: readonly unknown[]): void {
  const fault = first(signature.map(([name, kind], i) => inside(name, kind(values[i]))));
  if (fault !== undefined) throw new TypeError(`${call}(): ${fault}`);
}

/** `target`, whose methods from now on look at their arguments first. */
export function expecting<T extends object>(target: T, name: string, { rejects, throws }: Signatures<T>): T {
  const guard = (table: { readonly [K in keyof T]?: Signature } = {}, wrap: (body: () => unknown) => unknown): void => {
    for (const [method, signature] of Object.entries(table) as [keyof T & string, Signature][]) {
      const call = (target[method] as (...values: unknown[]) => unknown).bind(target);
      const value = (...values: unknown[]): unknown =>
        wrap(() => {
          expect(`${name}.${method}`, signature, values);
          return call(...values);
        });
      Object.defineProperty(target, method, { value, configurable: true });
    }
  };
  guard(rejects, async (body) => body());
  guard(throws, (body) => body());
  return target;
}

/** What `for await` takes, but no Buffer: that would be read byte by byte. */
function isStream(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return false;
  return [Symbol.asyncIterator, Symbol.iterator].some((key) => typeof Reflect.get(value, key) === 'function');
}

function inside(name: string, fault: string | undefined): string | undefined {
  return fault === undefined ? undefined : `${name}${fault}`;
}

function first(faults: readonly (string | undefined)[]): string | undefined {
  return faults.find((fault) => fault !== undefined);
}

function shown(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 40));
  if (typeof value !== 'object') return `${typeof value === 'function' ? 'a function' : String(value)}`;
  return Array.isArray(value) ? 'an array' : `an object (${value.constructor?.name ?? 'no class'})`;
}
