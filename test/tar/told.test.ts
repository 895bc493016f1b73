import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodeEntry, paddingFor, TarLexer, type TarSink, trailer } from '../../src/tar/index.ts';
import { type ToldEntry, ToldTar } from '../../src/tar/told.ts';
import { archive, asRead, type Written, written } from './arbitraries.ts';
import { chunked } from './collect.ts';

/** What a sink hears, views that follow on one another as one. */
function hearing(): { readonly heard: unknown[]; readonly sink: TarSink } {
  const heard: unknown[] = [];
  let kind = '';
  const bytes = (of: string, more: Uint8Array): void => {
    assert.ok(more.length > 0, 'an empty view');
    if (kind === of) heard.push(Buffer.concat([heard.pop() as Buffer, more]));
    else heard.push(of, Buffer.from(more));
    kind = of;
  };
  const tell = (...what: unknown[]): void => {
    heard.push(...what);
    kind = '';
  };
  const sink: TarSink = {
    raw: (view) => bytes('raw', view),
    data: (view) => bytes('data', view),
    entry: (entry) => tell('entry', entry),
    end: () => tell('end'),
  };
  return { heard, sink };
}

const members = fc.array(
  written.filter(({ entry }) => entry.sparse === undefined),
  { maxLength: 8 },
);

/** Where in the archive the payloads of its members begin. */
function places(all: readonly Written[]): { readonly at: number; readonly entry: Written['entry'] }[] {
  let end = 0;
  return all.map(({ entry, payload }) => {
    const at = end + encodeEntry(entry).length;
    end = at + payload.length + paddingFor(payload.length).length;
    return { at, entry: asRead(entry) };
  });
}

test('a sink hears of told entries what it hears from the lexer, wherever pieces end', () => {
  fc.assert(
    fc.property(members, fc.array(fc.integer({ min: 1, max: 2000 }), { minLength: 1, maxLength: 4 }), (all, sizes) => {
      const tar = archive(all);
      const expected = hearing();
      const lexer = new TarLexer(expected.sink);
      lexer.write(tar);
      lexer.finish();
      const { heard, sink } = hearing();
      const told = new ToldTar(sink);
      const entries = places(all);
      let done = 0;
      for (const piece of chunked(tar, sizes)) {
        // A header may end where a piece does: its entry is told with that piece.
        const here: ToldEntry[] = [];
        while (entries[0] !== undefined && entries[0].at <= done + piece.length) {
          const { at, entry } = entries.shift() as ToldEntry;
          here.push({ at: at - done, entry });
        }
        told.write(piece, here);
        done += piece.length;
      }
      assert.deepEqual(heard, expected.heard);
    }),
    { numRuns: 500 },
  );
});

test('what follows the last entry, and a tar without any, is raw', () => {
  const { heard, sink } = hearing();
  new ToldTar(sink).write(trailer(), []);
  assert.deepEqual(heard, ['raw', trailer()]);
});
