//! A controller sees to it that it is among the voters as it wants to be: it asks the leader, whoever that is, for the changes
//! that [`Membership`] decides on.

use super::control_messages as messages;
use super::control_plane::{CALL_DEADLINE, ControlPlane, Plane};
use super::quorum::{Membership, OwnChange};
use crate::runtime::Runtime;
use crate::shard::deadline::within;
use logmill_wire::frame::control::{ControlAnswer, ControlRequest};

impl<R: Runtime> ControlPlane<R> {
    /// From now on asks for what this controller wants changed about itself, until that is so.
    pub fn keep_membership(&self, membership: Membership) {
        let plane = self.clone();
        self.0.runtime.spawn(async move { plane.0.keep_membership(&membership).await });
    }
}

impl<R: Runtime> Plane<R> {
    async fn keep_membership(&self, membership: &Membership) {
        let (mut tries, mut told) = (0, None);
        while !self.is_stopping.get() {
            let wants = |status: &_| membership.next(status).is_some();
            if !self.quorum.wait_until(wants).await {
                return;
            }
            let Some(change) = membership.next(&self.quorum.status()) else { continue };
            let asked = ControlRequest::ChangeVoters(messages::voter_change_of(&change));
            match self.ask(&asked, CALL_DEADLINE).await {
                Ok(ControlAnswer::VotersChanged) => {
                    tell(&change);
                    (tries, told) = (0, None);
                    // What was changed there is known here a little later.
                    let is_done = |status: &_| membership.next(status).as_ref() != Some(&change);
                    let _ = within(&self.runtime, CALL_DEADLINE, self.quorum.wait_until(is_done)).await;
                    continue;
                }
                Ok(ControlAnswer::VotersUnchanged(cause)) => {
                    if told.as_ref() != Some(&cause) {
                        tracing::info!(%cause, "the voters of the metadata are not changed yet; trying on");
                        told = Some(cause);
                    }
                }
                answer => tracing::debug!(?answer, "a change of the voters is asked for again"),
            }
            self.back_off(&mut tries).await;
        }
    }
}

fn tell(change: &OwnChange) {
    match change {
        OwnChange::Join(key, _) => tracing::info!(controller = %key, "this controller votes on the metadata"),
        OwnChange::LeaveBehind(key) => {
            tracing::warn!(voter = %key, "this node voted with another log directory, which votes no more")
        }
        OwnChange::Update(..) => tracing::info!("the other controllers know where this one is reached"),
    }
}
