// Where this server's other listeners are, as a page on its admin address sees them.

// The address of `listen` that this page most likely reaches, or undefined where there is none. A host
// that stands for all of the machine's is the page's own.
export function nearest(listen, protocol) {
  const addresses = listen.map((address) => new URL(`${protocol}//${address}`));
  const address = addresses.find((one) => isAny(one) || one.hostname === location.hostname) ?? addresses[0];
  if (address && isAny(address)) address.hostname = location.hostname;
  return address;
}

const isAny = ({ hostname }) => hostname === "0.0.0.0" || hostname === "[::]";
