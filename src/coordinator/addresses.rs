//! Under which address encoders reach a streaming server. A server that comes back is known by it.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ServerKind {
    Rtmp,
    Ws,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ServerAddress {
    pub(super) kind: ServerKind,
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    pub(super) is_tls: bool,
}

impl ServerAddress {
    /// Of a connection from `ip` with these header values; one that is no address counts for nothing.
    pub(super) fn new(kind: ServerKind, ip: IpAddr, said: &SaidAddress<'_>) -> ServerAddress {
        let is_tls = said.ssl_use.eq_ignore_ascii_case("true");
        let usual = match (kind, is_tls) {
            (ServerKind::Rtmp, _) => 1935,
            (ServerKind::Ws, false) => 80,
            (ServerKind::Ws, true) => 443,
        };
        let port = said.custom_port.parse().ok().filter(|port| *port != 0);
        ServerAddress { kind, ip: said.ip_or(ip), port: port.unwrap_or(usual), is_tls }
    }

    /// Where an encoder finds a publisher's stream.
    pub(super) fn source(&self, channel: &str, key: &str) -> String {
        let scheme = match (self.kind, self.is_tls) {
            (ServerKind::Rtmp, false) => "rtmp",
            (ServerKind::Rtmp, true) => "rtmps",
            (ServerKind::Ws, false) => "ws",
            (ServerKind::Ws, true) => "wss",
        };
        // The brackets of an IPv6 address come from here.
        format!("{scheme}://{}/{channel}/{key}", SocketAddr::new(self.ip, self.port))
    }
}

/// What a server or encoder says of itself in its handshake: empty if nothing.
#[derive(Debug, Default)]
pub(super) struct SaidAddress<'h> {
    pub(super) external_ip: &'h str,
    pub(super) custom_port: &'h str,
    pub(super) ssl_use: &'h str,
}

impl SaidAddress<'_> {
    /// The address it gives, or the one that its connection comes from.
    pub(super) fn ip_or(&self, ip: IpAddr) -> IpAddr {
        let said = self.external_ip;
        if said.is_empty() {
            return ip.to_canonical();
        }
        said.parse().unwrap_or_else(|_| {
            tracing::warn!(%ip, said, "x-external-ip is no IP address");
            ip.to_canonical()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(kind: ServerKind, ip: &str, port: &str, ssl_use: &str) -> String {
        let said = SaidAddress { external_ip: ip, custom_port: port, ssl_use };
        let from = "192.0.2.7".parse().unwrap();
        ServerAddress::new(kind, from, &said).source("c", "k")
    }

    #[test]
    fn sources_are_made_of_what_a_server_says() {
        let cases = [
            (source(ServerKind::Ws, "", "", ""), "ws://192.0.2.7:80/c/k"),
            (source(ServerKind::Ws, "", "", "true"), "wss://192.0.2.7:443/c/k"),
            (source(ServerKind::Ws, "2001:db8::1", "8080", ""), "ws://[2001:db8::1]:8080/c/k"),
            (source(ServerKind::Rtmp, "198.51.100.1", "", ""), "rtmp://198.51.100.1:1935/c/k"),
            (source(ServerKind::Rtmp, "", "1", "TRUE"), "rtmps://192.0.2.7:1/c/k"),
            (source(ServerKind::Ws, "host", "70000", "no"), "ws://192.0.2.7:80/c/k"),
        ];
        for (made, wanted) in cases {
            assert_eq!(made, wanted);
        }
    }
}
