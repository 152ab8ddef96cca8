//! One connection slot of the API: peers come one after another, and each is served until it leaves.

use crate::ask::Ask;
use crate::door::Caller;
use crate::policy::Principal;
use crate::refusals::{NO_SERVICE, Refused};
use crate::secure::Secure;
use crate::wire::Wire;
use crate::{Management, Step};
use alloc::rc::Rc;
use core::time::Duration;
use kernel_runtime::{Clock, Instant, with_deadline};
use management_http::{Limits, Server};
use network::Stream;

/// Slots are few, so a peer that keeps one must say something now and then.
const LIMITS: Limits = Limits { idle_time: Duration::from_secs(10), ..Limits::SERVER };
/// How long a peer has to close its side after the last response.
const FINISH_TIME: Duration = Duration::from_secs(5);

/// How long the slot rests behind a peer that was not let in: whoever tries keys, or only handshakes, takes no more of the
/// processor than this leaves.
const REFUSED_TIME: Duration = Duration::from_millis(50);

/// Serve the API on `port` in this slot, for ever.
pub async fn serve(stream: Stream, port: u16, management: Rc<Management>) {
    serve_on(stream, port, &management).await;
}

/// As [`serve`], in a slot of any kind.
pub async fn serve_on<W: Wire>(stream: W, port: u16, management: &Management) {
    let mut stream = Secure::new(stream);
    let (clock, door) = (&management.clock, &management.configuration.door);
    let slots = &management.slots;
    slots.add();
    loop {
        stream.accept(port).await;
        let taken = slots.take();
        management.metrics.connection();
        let peer = stream.peer();
        let (outcome, patience) = match stream.admit(door, clock, slots).await {
            Ok(caller) => {
                if let Principal::Unknown(why) = caller.principal {
                    management.refuse(peer, &Refused::new(NO_SERVICE, why));
                }
                (converse(&mut stream, management, &caller).await, FINISH_TIME)
            }
            Err(refused) => {
                management.refuse(peer, &refused);
                // The next one may come in a moment: nobody else has to make room for it.
                drop(taken);
                // So that it hears the alert, if there is one.
                (Ok(()), REFUSED_TIME)
            }
        };
        match outcome {
            Ok(()) => {
                let until = clock.now() + patience;
                let finished = with_deadline(clock, until, stream.finish()).await;
                if finished.is_err() {
                    stream.abort();
                }
                if patience == REFUSED_TIME {
                    clock.sleep_until(until).await;
                }
            }
            Err(Gone) => stream.abort(),
        }
    }
}

/// The peer is gone, or might as well be.
struct Gone;

/// Serve one peer until all is said.
async fn converse<W: Wire>(stream: &mut W, management: &Management, caller: &Caller) -> Result<(), Gone> {
    let clock = &management.clock;
    let mut engine = Server::new(LIMITS, elapsed(clock));
    loop {
        write_out(stream, &mut engine, clock).await?;
        if engine.is_finished() {
            return Ok(());
        }
        let step = engine.request().map(|request| management.receive(&request, caller));
        match step {
            Some(Step::Answer(response)) => {
                management.recorded().await;
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Ask(Ask { question, deadline }, continuation)) => {
                let (question, _waiting) = management.may_wait(question);
                let reply = management.forward.ask(question, deadline).await;
                let response = management.complete(continuation, reply);
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Wait(wait)) => {
                let response = management.wait(wait).await;
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Look(look)) => {
                let response = management.look(look).await;
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Batch(batch)) => {
                let response = management.wait_for_all(batch).await;
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Listen(listen)) => {
                let response = management.listen(listen).await;
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Keep(deed)) => {
                let response = management.carry_out(deed).await;
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Keys(step)) => {
                let response = management.keys(step).await;
                management.recorded().await;
                engine.respond(elapsed(clock), &response);
            }
            None => read_in(stream, &mut engine, clock).await?,
        }
    }
}

async fn write_out<W: Wire>(stream: &mut W, engine: &mut Server, clock: &Clock) -> Result<(), Gone> {
    while !engine.transmit().is_empty() {
        let bytes = engine.transmit();
        let count = bytes.len();
        let until = deadline(engine).unwrap_or(clock.now() + LIMITS.write_time);
        match with_deadline(clock, until, stream.write_all(bytes)).await {
            Ok(Ok(())) => engine.transmitted(elapsed(clock), count),
            Ok(Err(_)) | Err(_) => return Err(Gone),
        }
    }
    Ok(())
}

async fn read_in<W: Wire>(stream: &mut W, engine: &mut Server, clock: &Clock) -> Result<(), Gone> {
    let until = deadline(engine).unwrap_or(clock.now() + LIMITS.idle_time);
    match with_deadline(clock, until, stream.read(engine.space())).await {
        Ok(Ok(0)) => engine.end_of_input(),
        Ok(Ok(count)) => engine.received(elapsed(clock), count),
        Ok(Err(_)) => return Err(Gone),
        Err(_) => engine.expired(elapsed(clock)).map_err(|_| Gone)?,
    }
    Ok(())
}

/// The engine counts time from the start of the machine.
fn elapsed(clock: &Clock) -> Duration {
    clock.now().since(Instant::ZERO)
}

fn deadline(engine: &Server) -> Option<Instant> {
    engine.deadline().map(|deadline| Instant::ZERO + deadline)
}
