// A process of its own for the tests: `node database-child.ts WHAT ROOT …`.
import { writeSync } from 'node:fs';
import { hub, imageOf, layersOf, load, open } from './database-sample.ts';

const [what, root = '', ...rest] = process.argv.slice(2);
const say = (line: string): void => void writeSync(1, `${line}\n`);

switch (what) {
  /** Opens, says what it sees, closes. */
  case 'open': {
    await using db = await open(root);
    say(`${db.driver} ${db.uuid}`);
    break;
  }
  /** Opens and lets go of nothing: the process must end all the same. */
  case 'idle': {
    const db = await open(root);
    say(`${(await db.images()).length}`);
    break;
  }
  /** Loads images for ever, each acknowledged by a line; removes every other one again. */
  case 'load': {
    const db = await open(root);
    for (let i = 0; ; i++) {
      const name = `${rest[0]}-${i}`;
      const layers = layersOf(['shared base', name]);
      await load(db, layers, [imageOf(name, layers, [hub(`${name}:latest`)])]);
      say(`+ ${name}`);
      if (i % 2 === 0) continue;
      say(`? ${name}`);
      const { unreached } = await db.removeImages([name]);
      await db.removeLayers(unreached.map((row) => row.driverId));
      say(`- ${name}`);
    }
  }
  /** Announces something and waits to be killed. */
  case 'make': {
    const db = await open(root);
    await db.begin([{ kind: 'layer', name: rest[0] ?? '' }]);
    await db.pin([layersOf(['pinned'])[0]!.chainId]);
    say('made');
    setInterval(() => {}, 1000);
    break;
  }
}
