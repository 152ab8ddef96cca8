//! Appliances that are known by their keys, to an agent that asks for them.

use agent::{Agent, Config, Shutdown};
use agent_protocol::{Hello, Uuid, encode, path};
use management_http::{Client, Limits, Method};
use network_tls::{Algorithm, Buffers, ClientConfig, Connection, Crypto, NoEntropy, Pin, PrivateKey, Random};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

#[derive(Debug)]
struct Urandom(File);

impl Random for Urandom {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        (&self.0).read_exact(out).map_err(|_| NoEntropy)
    }
}

fn crypto() -> Crypto {
    Crypto::new(Box::new(Urandom(File::open("/dev/urandom").unwrap()))).unwrap()
}

/// The status of the answer to a greeting by the appliance that has this key; `None` if it is not let in.
fn greet(agent: (SocketAddr, Pin), key: &PrivateKey, boot: u128) -> Option<u16> {
    let config = ClientConfig::pinned(&crypto(), &[agent.1], key.self_signed("appliance").unwrap()).unwrap();
    let buffers = Buffers { receive: 20 << 10, transmit: 20 << 10 };
    let mut tls = Connection::client(&config, "127.0.0.1", None, buffers).unwrap();
    let mut stream = TcpStream::connect(agent.0).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let hello = Hello { proto_min: 1, proto_max: 1, appliance_boot: Uuid(boot), epoch: None };
    let mut client = Client::new(Limits::CLIENT, "agent");
    client.request(Method::Post, path::HELLO, Some(&encode(&hello)));
    loop {
        if tls.is_established() && !client.transmit().is_empty() {
            let count = tls.write(client.transmit()).ok()?;
            client.transmitted(count);
        }
        while let bytes @ [_, ..] = tls.poll_transmit() {
            let count = stream.write(bytes).ok()?;
            tls.transmitted(count);
        }
        let count = stream.read(tls.space()).ok().filter(|count| *count > 0)?;
        tls.received(count).ok()?;
        loop {
            let count = tls.read(client.space()).ok()?;
            if count == 0 {
                break;
            }
            client.received(count).unwrap();
        }
        if let Some(reply) = client.reply() {
            return Some(reply.status);
        }
    }
}

#[test]
fn an_appliance_that_another_key_has_replaced_does_not_take_the_agent_back_by_starting_anew() {
    let directory = std::env::temp_dir().join(format!("corbel-agent-{}-keys", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let images = r#"{"qemu":{"executable":"/usr/bin/qemu-system-x86_64","images":{"none":{"arguments":["-machine","none"]}}}}"#;
    std::fs::write(directory.join("images.json"), images).unwrap();
    let [old, new] = [(); 2].map(|()| PrivateKey::generate(&crypto(), Algorithm::P256).unwrap());
    // What comes of greetings, with an agent that believes these keys.
    let with = |believed: &[&PrivateKey], greetings: &[(&PrivateKey, u128)]| -> Vec<Option<u16>> {
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            images: directory.join("images.json"),
            run_directory: directory.join("run"),
            end_guests: false,
            pins: believed.iter().map(|key| key.pin()).collect(),
            key: None,
            insecure: false,
        };
        let agent = Agent::bind(&config).unwrap();
        let pem = std::fs::read_to_string(directory.join("run/key.pem")).unwrap();
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let own = PrivateKey::from_pkcs8(&crypto(), network_tls::der(&body).unwrap().into()).unwrap();
        let at = (agent.address().unwrap(), own.pin());
        let shutdown = Shutdown::default();
        std::thread::scope(|scope| {
            scope.spawn(|| agent.serve(&shutdown));
            let said = greetings.iter().map(|(key, boot)| greet(at, key, *boot)).collect();
            shutdown.request();
            said
        })
    };
    let both = [&old, &new];
    let first = with(&both, &[(&old, 1), (&old, 2), (&new, 3), (&old, 2), (&old, 4), (&new, 5)]);
    let (yes, no) = (Some(200), Some(409));
    assert_eq!(
        first,
        [yes, yes, yes, no, no, yes],
        "it starts anew as often as it likes until it is replaced"
    );
    assert_eq!(with(&both, &[(&old, 6), (&new, 7)]), [no, yes], "it outlives the agent");
    assert_eq!(with(&[&old], &[(&new, 8), (&old, 9)]), [None, yes], "until the operator says otherwise");
    std::fs::remove_dir_all(&directory).unwrap();
}
