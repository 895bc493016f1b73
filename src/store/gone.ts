import { isStorageError, StorageError } from '../base/errors.ts';
import { Items } from '../base/items.ts';

/**
 * A failure on something of the store: where another process removed that meanwhile, it says so, whatever was found
 * missing first. Rows go before directories, so the lowers of a layer that is being removed may be gone already.
 */
export async function unlessGone(error: unknown, isThere: () => Promise<boolean>, cannot: string): Promise<unknown> {
  if (!isStorageError(error, 'corrupt') && !isStorageError(error, 'not-found')) return error;
  if (await isThere().catch(() => true)) return error; // the first error is the one to tell
  return new StorageError('not-found', `${cannot}: it was removed meanwhile`, { cause: error });
}

/** As `items`; what they fail with becomes what `known` makes of it. */
export function failing<T>(items: AsyncIterable<T>, known: (error: unknown) => Promise<unknown>): AsyncIterable<T> {
  return items instanceof Items ? new Items<T>(relayed(items.batches, known)) : relayed(items, known);
}

async function* relayed<T>(items: AsyncIterable<T>, known: (error: unknown) => Promise<unknown>): AsyncGenerator<T> {
  try {
    yield* items;
  } catch (error) {
    throw await known(error);
  }
}
