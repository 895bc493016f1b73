import { isUtf8 } from 'node:buffer';
import { fromText, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';

/** Anything that JSON can say. */
export type JsonValue = string | number | boolean | null | readonly JsonValue[] | JsonObject;
/** As `JSON.parse` made it: read its keys through `own`, never by plain access, which would find `constructor`. */
export type JsonObject = { readonly [key: string]: JsonValue };

/** Deeper than any document that an image needs; the next steps may recurse. */
const DEPTH_MAX = 128;
/** Commas and openings: bounds the memory of a document made of `[],[],…`, 30 times its bytes. */
const VALUES_MAX = 1_000_000;

/** The one refusal of this floor: `Cannot read WHAT: STATE`, corrupt. */
export function corrupt(what: string, state: string, cause?: unknown): StorageError {
  return new StorageError('corrupt', `Cannot read ${what}: ${state}`, cause === undefined ? {} : { cause });
}

/** Text from outside, for a message: quoted, cut at 100 characters. */
export function shown(text: string): string {
  return quote(fromText(text.length > 100 ? `${text.slice(0, 100)}…` : text));
}

/**
 * A whole JSON document, at most `bytesMax` long. UTF-8 without a byte order mark; keys keep their case, the last of
 * equal keys wins, `__proto__` is an ordinary key. `what` names it in errors, which are `corrupt`.
 */
export function parseJson(bytes: Uint8Array, what: string, bytesMax: number): JsonValue {
  if (bytes.length > bytesMax) throw corrupt(what, `it is ${bytes.length} bytes, at most ${bytesMax} are read`);
  checkShape(bytes, what);
  // Node's own decoder of texts is a module that takes as long to load as a config to parse (0.6 ms).
  if (!isUtf8(bytes)) throw corrupt(what, 'it is not valid UTF-8');
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
  try {
    return JSON.parse(text) as JsonValue;
  } catch (cause) {
    throw corrupt(what, 'it is not JSON', cause);
  }
}

/** As `parseJson`, for documents that must be an object. */
export function parseJsonObject(bytes: Uint8Array, what: string, bytesMax: number): JsonObject {
  return asObject(parseJson(bytes, what, bytesMax), what);
}

/** Counts nesting and values before `JSON.parse` spends memory on them. */
function checkShape(bytes: Uint8Array, what: string): void {
  let depth = 0;
  let values = 0;
  for (let i = 0; i < bytes.length; i++) {
    switch (bytes[i]) {
      case 0x22: // a string: on to its closing quote
        for (i++; i < bytes.length && bytes[i] !== 0x22; i++) if (bytes[i] === 0x5c) i++;
        break;
      case 0x5b:
      case 0x7b:
        values++;
        if (++depth > DEPTH_MAX) throw corrupt(what, `it nests deeper than ${DEPTH_MAX} levels`);
        break;
      case 0x5d:
      case 0x7d:
        depth--;
        break;
      case 0x2c:
        values++;
    }
  }
  if (values > VALUES_MAX) throw corrupt(what, `it holds more than ${VALUES_MAX} values`);
}

/** The object's own value of `key`; null is absent, as Go's decoder (and so every engine) has it. */
export function own(object: JsonObject, key: string): JsonValue | undefined {
  return Object.hasOwn(object, key) ? (object[key] ?? undefined) : undefined;
}

export function asObject(value: JsonValue | undefined, what: string): JsonObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw corrupt(what, 'it is not an object');
  return value as JsonObject;
}

/** The list at `key`; absent is empty. */
export function listAt(object: JsonObject, key: string, what: string): readonly JsonValue[] {
  const value = own(object, key);
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw corrupt(what, `${shown(key)} is not a list`);
  return value as readonly JsonValue[];
}

export function objectAt(object: JsonObject, key: string, what: string): JsonObject | undefined {
  const value = own(object, key);
  return value === undefined ? undefined : asObject(value, `${key} of ${what}`);
}

export function textAt(object: JsonObject, key: string, what: string): string | undefined {
  const value = own(object, key);
  if (value !== undefined && typeof value !== 'string') throw corrupt(what, `${shown(key)} is not a string`);
  return value;
}

/** The list of strings at `key`; absent is empty. */
export function textsAt(object: JsonObject, key: string, what: string): readonly string[] {
  return listAt(object, key, what).map((value) => {
    if (typeof value !== 'string') throw corrupt(what, `${shown(key)} holds something that is not a string`);
    return value;
  });
}

/** The object of strings at `key`, in its order; a Map, so that no key can be special. */
export function textMapAt(object: JsonObject, key: string, what: string): ReadonlyMap<string, string> {
  const value = objectAt(object, key, what);
  const map = new Map<string, string>();
  for (const [name, text] of Object.entries(value ?? {})) {
    if (text === null) continue;
    if (typeof text !== 'string') throw corrupt(what, `${shown(key)} holds something that is not a string`);
    map.set(name, text);
  }
  return map;
}
