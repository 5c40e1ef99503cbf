//! gRPC's side of the admin API: who calls, then the call.

use bonafide_wire::admin::{
    ApplyRequest, ApplyResponse, AuthorityStatus, BanAgentRequest, ChangeAuthorityRequest,
    ChangeAuthorityResponse, ChangeKeyRequest, ChangeSealsRequest, CreateJoinTokenRequest,
    CreateJoinTokenResponse, CreateKeyRequest, DeleteRequest, ExplainRequest, ExplainResponse,
    ExportKeyRequest, ExportKeyResponse, GetBundleRequest, GetBundleResponse, GrantKeyRequest,
    KeyGrantResponse, KeyResponse, ListAgentsRequest, ListAgentsResponse, ListAuthoritiesRequest,
    ListAuthoritiesResponse, ListJoinTokensRequest, ListJoinTokensResponse, ListKeyGrantsRequest,
    ListKeyGrantsResponse, ListKeysRequest, ListKeysResponse, ListPoliciesRequest, ListPoliciesResponse,
    ListRegistrationsRequest, ListRegistrationsResponse, ListRevocationsRequest, ListRevocationsResponse,
    ListSealsRequest, ListSitesRequest, ListSitesResponse, PrepareAuthorityRequest, PutRegistrationRequest,
    PutRegistrationResponse, PutSiteRequest, PutSiteResponse, RevokeRequest, RevokeResponse, SealsResponse,
    StatusRequest, UnrevokeRequest, WaitRequest, WaitResponse, WriteResponse, admin_server,
};
use tonic::service::Interceptor;
use tonic::{Extensions, Request, Response, Status};

use super::{Admin, Caller, Rights};
use crate::refusal::Refusal;

impl Admin {
    fn authenticate<T>(&self, call: &str, request: Request<T>) -> Result<(Caller, T), Refusal> {
        Ok((self.admit(request.extensions(), call)?, request.into_inner()))
    }

    /// Who calls, if policies let him make this call.
    ///
    /// # Errors
    /// `admin.unauthenticated`, `admin.not-admin`, `admin.denied-by-policy`.
    pub(crate) fn admit(&self, extensions: &Extensions, call: &str) -> Result<Caller, Refusal> {
        let caller = Caller::of(extensions, self.info.local)?;
        self.guard.check(&caller, call, &self.registry.state(), self.clock.now())?;
        Ok(caller)
    }

    /// The sites that a caller may administer; none for those who have all.
    ///
    /// # Errors
    /// A caller without rights.
    pub(crate) fn own_sites(&self, caller: &Caller) -> Result<Vec<String>, Refusal> {
        Ok(match self.reader(caller)?.1 {
            Rights::All => Vec::new(),
            Rights::Sites(sites) => sites.into_iter().collect(),
        })
    }
}

impl Interceptor for Admin {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let caller = Caller::of(request.extensions(), self.info.local)?;
        self.reader(&caller)?;
        Ok(request)
    }
}

/// The name of a call as its protocol has it: `put_site` is `PutSite`.
fn camel_case(name: &str) -> String {
    let capitalized = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split('_').map(capitalized).collect()
}

/// Each method of the trait is the method of the same name, once the caller is known.
macro_rules! calls {
    ($($name:ident => $method:ident ($request:ty) -> $response:ty $(: $wait:ident)?;)*) => {
        #[tonic::async_trait]
        impl admin_server::Admin for Admin {
            $(
                async fn $name(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                    let (caller, request) = self.authenticate(&camel_case(stringify!($name)), request)?;
                    calls!(@answer self, caller, request, $method $(, $wait)?)
                }
            )*
        }
    };
    (@answer $self:ident, $caller:ident, $request:ident, $method:ident, writes) => {
        Ok(Response::new($self.$method(&$caller, $request).await?))
    };
    (@answer $self:ident, $caller:ident, $request:ident, $method:ident, waits) => {
        Ok(Response::new($self.$method(&$caller, &$request).await?))
    };
    (@answer $self:ident, $caller:ident, $request:ident, $method:ident) => {
        Ok(Response::new($self.$method(&$caller, &$request)?))
    };
}

calls! {
    status => status(StatusRequest) -> AuthorityStatus;
    put_site => put_site(PutSiteRequest) -> PutSiteResponse: writes;
    delete_site => delete_site(DeleteRequest) -> WriteResponse: writes;
    list_sites => list_sites(ListSitesRequest) -> ListSitesResponse;
    put_registration => put_registration(PutRegistrationRequest) -> PutRegistrationResponse: writes;
    delete_registration => delete_registration(DeleteRequest) -> WriteResponse: writes;
    list_registrations => list_registrations(ListRegistrationsRequest) -> ListRegistrationsResponse;
    create_join_token => create_join_token(CreateJoinTokenRequest) -> CreateJoinTokenResponse: writes;
    list_join_tokens => list_join_tokens(ListJoinTokensRequest) -> ListJoinTokensResponse;
    delete_join_token => delete_join_token(DeleteRequest) -> WriteResponse: writes;
    list_agents => list_agents(ListAgentsRequest) -> ListAgentsResponse;
    ban_agent => ban_agent(BanAgentRequest) -> WriteResponse: writes;
    get_bundle => bundle(GetBundleRequest) -> GetBundleResponse;
    list_authorities => list_authorities(ListAuthoritiesRequest) -> ListAuthoritiesResponse;
    explain => explain(ExplainRequest) -> ExplainResponse;
    wait => wait(WaitRequest) -> WaitResponse: waits;
    apply => apply(ApplyRequest) -> ApplyResponse: writes;
    prepare_authority => prepare_authority(PrepareAuthorityRequest) -> ChangeAuthorityResponse: writes;
    activate_authority => activate_authority(ChangeAuthorityRequest) -> ChangeAuthorityResponse: writes;
    taint_authority => taint_authority(ChangeAuthorityRequest) -> ChangeAuthorityResponse: writes;
    revoke_authority => revoke_authority(ChangeAuthorityRequest) -> ChangeAuthorityResponse: writes;
    revoke => revoke(RevokeRequest) -> RevokeResponse: writes;
    unrevoke => unrevoke(UnrevokeRequest) -> WriteResponse: writes;
    list_revocations => list_revocations(ListRevocationsRequest) -> ListRevocationsResponse;
    list_policies => list_policies(ListPoliciesRequest) -> ListPoliciesResponse;
    delete_policy => delete_policy(DeleteRequest) -> WriteResponse: writes;
    create_key => create_key(CreateKeyRequest) -> KeyResponse: writes;
    list_keys => list_keys(ListKeysRequest) -> ListKeysResponse;
    change_key => change_key(ChangeKeyRequest) -> KeyResponse: writes;
    delete_key => delete_key(DeleteRequest) -> WriteResponse: writes;
    export_key => export_key(ExportKeyRequest) -> ExportKeyResponse: waits;
    grant_key => grant_key(GrantKeyRequest) -> KeyGrantResponse: writes;
    list_key_grants => list_key_grants(ListKeyGrantsRequest) -> ListKeyGrantsResponse;
    revoke_key_grant => revoke_key_grant(DeleteRequest) -> WriteResponse: writes;
    list_seals => list_seals(ListSealsRequest) -> SealsResponse: writes;
    change_seals => change_seals(ChangeSealsRequest) -> SealsResponse: writes;
}
