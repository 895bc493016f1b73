import { request } from 'node:http';
import { openStore } from '../src/index.ts';

// create + mount + unmount + remove of a writable layer, several times in one process: by layerstore's library, or of a
// container by Docker's API (whose create mounts and unmounts by itself). With a layer's (a container's) name: a commit
// of that, whose image is removed untimed. Prints the seconds of each round as JSON.

const [how, where, reference, count, layer] = process.argv.slice(2) as [string, string, string, string, string?];
const WARM_UP = 2;

/** `undo`: after each round, untimed. */
async function measured(
  round: (i: number) => Promise<void>,
  undo: (i: number) => Promise<void> = async () => {},
): Promise<number[]> {
  const seconds: number[] = [];
  for (let i = 0; i < Number(count) + WARM_UP; i++) {
    const start = performance.now();
    await round(i);
    seconds.push((performance.now() - start) / 1000);
    await undo(i);
  }
  return seconds.slice(WARM_UP);
}

async function byLibrary(): Promise<number[]> {
  await using store = await openStore({ root: where });
  if (layer !== undefined) {
    const work = await store.layers.get(layer);
    const undo = async (i: number): Promise<void> => {
      await store.images.remove(`commits:${i}`);
      await store.upkeep.sweep({ wait: true });
    };
    return await measured(async (i) => void (await work.commit(`commits:${i}`)), undo);
  }
  return await measured(async (i) => {
    await using layer = await store.layers.create(reference, { name: `round-${i}` });
    {
      await using _mounted = await layer.mount();
    }
    await layer.remove();
  });
}

function docker(method: string, path: string, body?: object): Promise<string> {
  const headers = body === undefined ? {} : { 'content-type': 'application/json' };
  return new Promise((resolve, reject) => {
    const call = request({ socketPath: where, method, path, headers }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
      });
      answer.on('end', () => ((answer.statusCode ?? 500) < 300 ? resolve(text) : reject(new Error(text))));
    });
    call.once('error', reject).end(body === undefined ? undefined : JSON.stringify(body));
  });
}

async function byDocker(): Promise<number[]> {
  if (layer !== undefined) {
    const commit = async (i: number): Promise<void> =>
      void (await docker('POST', `/commit?container=${layer}&repo=commits&tag=${i}`, {}));
    return await measured(commit, async (i) => void (await docker('DELETE', `/images/commits:${i}`)));
  }
  return await measured(async () => {
    const created = await docker('POST', '/containers/create', {
      Image: reference,
      Cmd: ['true'],
      NetworkDisabled: true,
    });
    await docker('DELETE', `/containers/${(JSON.parse(created) as { Id: string }).Id}`);
  });
}

const times = await (how === 'library' ? byLibrary() : byDocker());
console.log(JSON.stringify(times));
