import { type ByteString, toBytes, toTextExact } from '../../base/bytes.ts';

/** One line of JSON. What could move a terminal's cursor or turn its text around is escaped. */
export function jsonLine(value: unknown): string {
  return escapeInvisible(JSON.stringify(value));
}

/** A document for people, indented. */
export function jsonDocument(value: unknown): string {
  return escapeInvisible(JSON.stringify(value, undefined, 2));
}

// JSON.stringify escapes only what is below U+0020 (ECMA-262, QuoteJSONString).
function escapeInvisible(json: string): string {
  return json.replace(
    /[\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** `{path}`, or `{pathBase64}` where the name is not UTF-8. */
export function pathFields(path: ByteString): { readonly path?: string; readonly pathBase64?: string } {
  const text = toTextExact(path);
  return text === undefined ? { pathBase64: toBytes(path).toString('base64') } : { path: text };
}
