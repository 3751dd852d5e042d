//! Watches as streams.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tonic::Status;

use crate::{calls::Watching, catalog::Error, proto::Watched, resource::Resource, store};

/// The answer to a watch.
pub(crate) type WatchStream<R> =
    Pin<Box<dyn Stream<Item = Result<Watched<R>, Status>> + Send + 'static>>;

/// The settings of watches, whatever they watch.
#[derive(Clone, Debug)]
pub(crate) struct Watches {
    /// How often they report their revision when nothing happens.
    pub(crate) bookmark_interval: Duration,
    /// True once the server ends, which ends the watches, too.
    pub(crate) ends: watch::Receiver<bool>,
}

impl Watches {
    /// The stream of a watch. Nothing is read ahead: the next message is made when the last one is on its way.
    pub(crate) fn stream<R: Resource>(&self, watching: Watching<R>) -> WatchStream<R> {
        let begun = Some((watching, self.ends.clone()));
        Box::pin(stream::unfold(begun, async move |state| {
            let (mut watching, mut ends) = state?;
            let said = tokio::select! {
                said = watching.next_encoded() => said,
                _ = ends.wait_for(|ends| *ends) => Err(Error::Store(store::Error::Closed)),
            };
            Some(match said {
                Ok(said) => (Ok(said), Some((watching, ends))),
                Err(error) => (Err(error.into()), None),
            })
        }))
    }
}
