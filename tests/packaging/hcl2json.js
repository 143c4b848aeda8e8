// stdin: a JSON list of HCL texts. stdout: for each {"tree": ...}, or {"error": ...} where HashiCorp's parser refuses it.
const { readFileSync } = require("node:fs");
const { parse } = require("@cdktf/hcl2json");

async function main() {
  const results = [];
  for (const text of JSON.parse(readFileSync(0, "utf8"))) {
    results.push(await parse("job.hcl", text).then((tree) => ({ tree }), (error) => ({ error: String(error) })));
  }
  process.stdout.write(JSON.stringify(results));
}

main();
