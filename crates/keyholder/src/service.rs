//! gRPC: what callers, other keyholders and the operator ask.

use std::sync::Arc;

use bonafide_net::tls_listener::PeerSvid;
use bonafide_tls::VerifiedX509Svid;
use bonafide_wire::keyholder::keyholder_admin_server::KeyholderAdmin;
use bonafide_wire::keyholder::keyholder_server::Keyholder;
use bonafide_wire::keyholder::{
    ChallengeRequest, ChallengeResponse, DecapsulateRequest, DecapsulateResponse, DeliverRequest,
    DeliverResponse, Documents, GetDocumentsRequest, GetStatusRequest, InstallRequest, KeyholderStatus,
    ProposeRequest, ProposeResponse,
};
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::audit::hexadecimal;
use crate::error::Refusal;
use crate::generated::worker::{self, request::Ask};
use crate::server::Engine;

/// For everybody with an SVID under the anchors of the roster.
#[derive(Clone, Debug)]
pub(crate) struct Public(pub(crate) Arc<Engine>);

/// For the operator.
#[derive(Clone, Debug)]
pub(crate) struct Local(pub(crate) Arc<Engine>);

#[tonic::async_trait]
impl Keyholder for Public {
    async fn challenge(
        &self,
        request: Request<ChallengeRequest>,
    ) -> Result<Response<ChallengeResponse>, Status> {
        let peer = peer(&request)?;
        let leaf = peer.leaf().der().to_vec().into();
        let reply = self.0.ask(Ask::Challenge(worker::Challenge { leaf })).await;
        let reply = reply.and_then(refused).map_err(Refusal::into_status)?;
        Ok(Response::new(ChallengeResponse { nonce: reply.body }))
    }

    async fn decapsulate(
        &self,
        request: Request<DecapsulateRequest>,
    ) -> Result<Response<DecapsulateResponse>, Status> {
        let peer = peer(&request)?;
        let DecapsulateRequest { question, nonce, signature } = request.into_inner();
        let certificates = std::iter::once(peer.leaf()).chain(peer.authorities());
        let chain = certificates.map(|each| each.der().to_vec().into()).collect();
        let asked = worker::Evaluate { question, nonce, signature, chain };
        let answer = self.0.evaluate(asked).await.map_err(Refusal::into_status)?;
        Ok(Response::new(DecapsulateResponse { answer }))
    }

    async fn get_documents(&self, _: Request<GetDocumentsRequest>) -> Result<Response<Documents>, Status> {
        Ok(Response::new(self.0.known().documents.clone()))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<KeyholderStatus>, Status> {
        // What happened in ceremonies is for operators.
        Ok(Response::new(KeyholderStatus { notices: Vec::new(), ..self.0.status() }))
    }

    async fn deliver(&self, request: Request<DeliverRequest>) -> Result<Response<DeliverResponse>, Status> {
        let peer = peer(&request)?;
        if !self.0.known().peers.contains(peer.id()) {
            let hint = "only keyholders of the roster take part in ceremonies";
            let why = format!("`{}` is no keyholder of the roster", peer.id());
            return Err(Refusal::new("keyholder.not-a-member", why, hint).into_status());
        }
        let DeliverRequest { plan, message } = request.into_inner();
        let done = self.0.change(Ask::Deliver(worker::Deliver { plan, message })).await;
        done.map_err(Refusal::into_status)?;
        Ok(Response::new(DeliverResponse {}))
    }
}

#[tonic::async_trait]
impl KeyholderAdmin for Local {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<KeyholderStatus>, Status> {
        Ok(Response::new(self.0.status()))
    }

    async fn get_documents(&self, _: Request<GetDocumentsRequest>) -> Result<Response<Documents>, Status> {
        Ok(Response::new(self.0.known().documents.clone()))
    }

    async fn install(&self, request: Request<InstallRequest>) -> Result<Response<KeyholderStatus>, Status> {
        let documents = request.into_inner().documents.unwrap_or_default().encode_to_vec().into();
        let ask = Ask::Install(worker::Install { documents, is_local: true });
        self.0.change(ask).await.map_err(Refusal::into_status)?;
        Ok(Response::new(self.0.status()))
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeResponse>, Status> {
        let proposal = request.into_inner().encode_to_vec().into();
        let session = self.0.change(Ask::Propose(worker::Propose { proposal })).await;
        let session = session.map_err(Refusal::into_status)?;
        Ok(Response::new(ProposeResponse { session: hexadecimal(&session) }))
    }
}

/// The reply, unless it is a refusal.
pub(crate) fn refused(reply: worker::Reply) -> Result<worker::Reply, Refusal> {
    match reply.refusal {
        Some(refusal) => Err(refusal.into()),
        None => Ok(reply),
    }
}

fn peer<T>(request: &Request<T>) -> Result<Arc<VerifiedX509Svid>, Status> {
    let peer = request.extensions().get::<PeerSvid>().and_then(|peer| peer.0.clone());
    peer.ok_or_else(|| {
        let hint = "connect with an X509-SVID under an anchor of the roster";
        Refusal::new("keyholder.caller-unknown", "the caller has shown no certificate", hint).into_status()
    })
}
