//! The sockets that a server listens on, and what each leads to.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use super::part_options::raw_camera;
use crate::cameras::Push;
use crate::connection::{Doors, Role};
use crate::operations::config::Config;
use crate::operations::config_cameras::CamerasSection;
use crate::runtime::socket;

/// A bound socket and what it leads to.
pub(super) type Listening = (TcpListener, Role);

/// Listeners of objects that were bound to learn their ports.
pub(super) struct Bound {
    pub(super) listeners: Vec<Listening>,
}

impl Bound {
    pub(super) fn new(config: &Config, user_timeout_s: u64) -> io::Result<Bound> {
        let mut listeners = Vec::new();
        let doors = [
            (&config.listen, Bound::common(config), "listen"),
            (&config.append.listen, Doors::APPEND, "append.listen"),
            (&config.channels.listen, Doors::CHANNELS, "channels.listen"),
        ];
        for (list, doors, option) in doors {
            for address in list {
                let (listener, _) = bind_one(*address, option, user_timeout_s)?;
                listeners.push((listener, Role::Objects(doors)));
            }
        }
        for (address, push, option) in camera_doors(&config.cameras) {
            let (listener, _) = bind_one(address, option, user_timeout_s)?;
            listeners.push((listener, Role::Cameras(push)));
        }
        Ok(Bound { listeners })
    }

    /// What the common listeners lead to.
    pub(super) fn common(config: &Config) -> Doors {
        let (append, channels) = (&config.append, &config.channels);
        Doors {
            http: true,
            append: append.enabled && append.listen.is_empty(),
            channels: channels.enabled && channels.listen.is_empty(),
        }
    }

    pub(super) fn addresses(&self) -> Vec<(SocketAddr, Role)> {
        let address = |(listener, role): &(TcpListener, Role)| {
            Some((listener.local_addr().ok()?, role.clone()))
        };
        self.listeners.iter().filter_map(address).collect()
    }
}

/// Where cameras push, and how.
fn camera_doors(section: &CamerasSection) -> Vec<(SocketAddr, Push, &'static str)> {
    let greeted = section.listen.iter();
    let greeted = greeted.map(|address| (*address, Push::Greeted, "cameras.listen"));
    let raw = section.raw.iter().filter_map(|raw| {
        Some((raw.listen, Push::Raw(Arc::new(raw_camera(raw)?)), "cameras.raw.listen"))
    });
    greeted.chain(raw).collect()
}

pub(super) fn addresses_of(addresses: &[(SocketAddr, Role)], doors: Doors) -> Vec<SocketAddr> {
    let is_it = |role: &Role| matches!(role, Role::Objects(found) if *found == doors);
    addresses.iter().filter(|(_, role)| is_it(role)).map(|(address, _)| *address).collect()
}

/// Where cameras push, and what their listener knows of them.
pub(super) fn camera_doors_of(
    addresses: &[(SocketAddr, Role)],
) -> impl Iterator<Item = (SocketAddr, &Push)> {
    addresses.iter().filter_map(|(address, role)| match role {
        Role::Cameras(push) => Some((*address, push)),
        Role::Objects(_) | Role::Admin(_) => None,
    })
}

/// The first core gets the listeners that were bound to learn the ports, and the admin address.
pub(super) fn listeners_of_core(
    addresses: &[(SocketAddr, Role)],
    user_timeout_s: u64,
    firsts: Option<(Vec<Listening>, Listening)>,
) -> io::Result<Vec<Listening>> {
    if let Some((first, admin)) = firsts {
        return Ok(first.into_iter().chain([admin]).collect());
    }
    let bind = |(address, role): &(SocketAddr, Role)| {
        Ok((socket::bind(*address, user_timeout_s)?, role.clone()))
    };
    addresses.iter().map(bind).collect()
}

pub(super) fn bind_one(
    address: SocketAddr,
    option: &str,
    user_timeout_s: u64,
) -> io::Result<(TcpListener, SocketAddr)> {
    let explain = |error: io::Error| {
        let text = format!("cannot listen on {address} (option {option}): {error}");
        io::Error::new(error.kind(), text)
    };
    refuse_taken_port(address).map_err(explain)?;
    let listener = socket::bind(address, user_timeout_s).map_err(explain)?;
    let actual = listener.local_addr()?;
    Ok((listener, actual))
}

/// Cores share their port (SO_REUSEPORT), so a second server would silently share it too: try once
/// without sharing.
fn refuse_taken_port(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    TcpListener::bind(address).map(drop)
}
