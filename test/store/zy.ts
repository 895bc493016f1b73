import { scratch } from '../kit/scratch.ts';
import { open } from './database-sample.ts';
await using dir = await scratch('db');
await (await open(dir.path))[Symbol.asyncDispose]();
for (let i=0;i<6;i++){ let t=performance.now(); await (await open(dir.path))[Symbol.asyncDispose](); console.log('open', performance.now()-t);}
import { Worker } from 'node:worker_threads';
for (let i=0;i<6;i++){ let t=performance.now(); const w=new Worker('require("worker_threads").parentPort.postMessage(1)',{eval:true,env:{},execArgv:[]}); await new Promise(r=>w.once('message',r)); console.log('bare worker', performance.now()-t);}
