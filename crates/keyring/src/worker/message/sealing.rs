//! What opens a keyring, and what went wrong beside, as bytes.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{DevicePart, MAX_NAME, MAX_PASSPHRASE, MAX_SHOWN, MAX_TEXT, ProblemPart, SealPart, flag, path};
use crate::codec::{Input, put_string};

pub(super) fn put_sealed(
    out: &mut Vec<u8>,
    keyring: &Path,
    seals: &[SealPart<'_>],
    device: Option<DevicePart<'_>>,
) -> Option<()> {
    put_string(out, keyring.as_os_str().as_bytes())?;
    out.push(u8::try_from(seals.len()).ok()?);
    seals.iter().try_for_each(|seal| put_seal(out, seal))?;
    out.push(u8::from(device.is_some()));
    device.map_or(Some(()), |device| {
        put_string(out, device.module.as_os_str().as_bytes())?;
        put_string(out, device.token.as_bytes())?;
        put_string(out, device.pin)
    })
}

pub(super) fn sealed<'a>(
    input: &mut Input<'a>,
) -> Option<(&'a Path, Vec<SealPart<'a>>, Option<DevicePart<'a>>)> {
    let keyring = path(input)?;
    let count = usize::from(input.byte()?);
    if count == 0 || count > MAX_SHOWN {
        return None;
    }
    let seals = (0..count).map(|_| seal(input)).collect::<Option<_>>()?;
    let device = match flag(input)? {
        true => Some(DevicePart {
            module: path(input)?,
            token: input.text(MAX_NAME)?,
            pin: input.string(MAX_PASSPHRASE)?,
        }),
        false => None,
    };
    Some((keyring, seals, device))
}

pub(super) fn put_seal(out: &mut Vec<u8>, seal: &SealPart<'_>) -> Option<()> {
    match seal {
        SealPart::KeyFile(path) => {
            out.push(1);
            put_string(out, path.as_os_str().as_bytes())
        }
        SealPart::Passphrase(passphrase) => {
            out.push(2);
            put_string(out, passphrase)
        }
        SealPart::Device => {
            out.push(3);
            Some(())
        }
        SealPart::Missing { kind, why } => {
            out.push(4);
            put_string(out, kind.as_bytes())?;
            put_string(out, why.get(..why.floor_char_boundary(MAX_TEXT))?.as_bytes())
        }
    }
}

pub(super) fn seal<'a>(input: &mut Input<'a>) -> Option<SealPart<'a>> {
    Some(match input.byte()? {
        1 => SealPart::KeyFile(path(input)?),
        2 => SealPart::Passphrase(input.string(MAX_PASSPHRASE)?),
        3 => SealPart::Device,
        4 => SealPart::Missing { kind: input.text(MAX_NAME)?, why: input.text(MAX_TEXT)? },
        _ => return None,
    })
}

pub(super) fn put_problems(out: &mut Vec<u8>, problems: &[ProblemPart<'_>]) -> Option<()> {
    out.push(u8::try_from(problems.len()).ok()?);
    for (place, code, message) in problems {
        out.push(*place);
        put_string(out, code.as_bytes())?;
        put_string(out, message.get(..message.floor_char_boundary(MAX_TEXT))?.as_bytes())?;
    }
    Some(())
}

pub(super) fn problems<'a>(input: &mut Input<'a>) -> Option<Vec<ProblemPart<'a>>> {
    let count = input.byte()?;
    (0..count).map(|_| Some((input.byte()?, input.text(64)?, input.text(MAX_TEXT)?))).collect()
}
