//! How messages are read and written: tonic's codec for prost, with small buffers.
//!
//! Each direction of each call has a buffer for as long as the call lives. Most of our calls are streams of one agent
//! or workload that live for hours and say little; with tonic's 8 KiB, a thousand agents would hold 16 MB of nothing.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// What a buffer begins with and grows by. It grows for as long as more is to be sent than that.
const BUFFER: usize = 1024;
/// A batch of answers is handed over when it is as large as this, as tonic does it.
const YIELD_AT: usize = 32 * 1024;

/// Writes `T`, reads `U`.
#[derive(Debug)]
pub(crate) struct MessageCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for MessageCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for MessageCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, YIELD_AT))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, YIELD_AT))
    }
}
