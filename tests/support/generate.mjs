// Text that transformers.js generates greedily in Node: node generate.mjs NODE_MODULES < requests.json > answers.json
//
// A request is {folder, inputs, newTokens}; inputs are texts, or lists of token ids. Its answer is a list of
// {prompt, tokens}, one for each input: the token ids of the prompt, and those that were generated. A request with
// `encode` is for an encoder; its answer is a list of {prompt, values}, the numbers of its first output. A request with
// `images` is for a vision-language model: inputs of its vision encoder by name, each {type, dims, data}.
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const entry = join(resolve(process.argv[2]), '@huggingface/transformers/dist/transformers.node.mjs');
const { AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, Tensor, env } = await import(pathToFileURL(entry));
env.allowRemoteModels = false;
env.useFSCache = false;

const toTensor = (ids) => new Tensor('int64', BigInt64Array.from(ids, BigInt), [1, ids.length]);

const ARRAYS = {
    float32: (data) => Float32Array.from(data),
    bool: (data) => Uint8Array.from(data),
    int64: (data) => BigInt64Array.from(data, BigInt),
};

async function answer({ folder, inputs, newTokens, encode, images, options }) {
    const loaded = encode ? AutoModel : images ? AutoModelForImageTextToText : AutoModelForCausalLM;
    const seen = Object.entries(images ?? {}).map(([name, { type, dims, data }]) => [
        name,
        new Tensor(type, ARRAYS[type](data), dims),
    ]);
    const model = await loaded.from_pretrained(resolve(folder), options);
    const tokenizer = inputs.some((each) => typeof each === 'string')
        ? await AutoTokenizer.from_pretrained(resolve(folder))
        : null;
    const answers = [];
    for (const each of inputs) {
        const prompt = typeof each === 'string' ? tokenizer.encode(each) : each;
        const mask = toTensor(prompt.map(() => 1));
        const given = { input_ids: toTensor(prompt), attention_mask: mask, ...Object.fromEntries(seen) };
        if (encode) {
            answers.push({ prompt, values: [...Object.values(await model(given))[0].data] });
            continue;
        }
        const found = await model.generate({ ...given, max_new_tokens: newTokens, do_sample: false });
        answers.push({ prompt, tokens: found.tolist()[0].slice(prompt.length).map(Number) });
    }
    await model.dispose();
    return answers;
}

const answers = [];
for (const request of JSON.parse(readFileSync(0, 'utf-8'))) {
    // one after the other, so that memory holds one; a model that fails must not hide what others do
    answers.push(await answer(request).catch((error) => ({ error: String(error) })));
}
process.stdout.write(JSON.stringify(answers));
