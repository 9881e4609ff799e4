// The types that openapi-typescript makes are good enough to write red-blue in: this file only has to compile.
import type { paths } from "./netloom";

type Body<Path extends keyof paths> = paths[Path] extends {
  post: { requestBody: { content: { "application/json": infer B } } };
}
  ? B
  : never;
type Reply<Path extends keyof paths> = paths[Path] extends {
  post: { responses: { 201: { content: { "application/json": infer R } } } };
}
  ? R
  : never;

export const network: Body<"/v1/networks"> = {
  name: "v-net-0",
  spec: {
    kind: { bridge: { device: "v-net-0" } },
    subnets: [{ cidr: "192.168.15.0/24", gateway: "192.168.15.5" }],
    egress: { nat: {} },
  },
};

export const attachment: Body<"/v1/attachments"> = {
  name: "blue0",
  spec: { namespace: "blue", network: "v-net-0", addresses: ["192.168.15.2"] },
};

export const forward: Body<"/v1/port-forwards"> = {
  name: "web",
  spec: { protocol: "tcp", listen: { port: 80 }, target: { attachment: "blue0", port: 80 } },
};

export function address(made: Reply<"/v1/attachments">): string | undefined {
  return made.status?.addresses?.[0];
}

// @ts-expect-error: a forward without a target is none
export const wrong: Body<"/v1/port-forwards"> = { name: "web", spec: { protocol: "tcp", listen: { port: 80 } } };
