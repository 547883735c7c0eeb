// Checks an AsyncAPI document with AsyncAPI's own parser. Usage: node asyncapi.mjs FILE; exits 1 where it is not valid.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const [file] = process.argv.slice(2);
const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"), { source: file });
for (const { code, message, path, severity } of diagnostics) if (severity < 2) console.log(code, message, path.join("."));
console.log(document ? `valid: ${document.channels().all().length} channels` : "not valid");
process.exit(document ? 0 : 1);
