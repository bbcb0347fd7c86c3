//! Calls: what the host asks of a guest, and how its bytes get there.
//!
//! Owns: the guest functions' arguments and the copying of payloads.  Not: slices and budgets
//! (`instance.rs`), which functions there are (`module.rs`).
//! G1  a payload lies in a buffer that the guest allocated for it, valid until the next call.

use super::module::{CompiledModule, Entry};
use super::trap::{NoExport, NoRoom};
use bytes::Bytes;
use wasmtime::{Memory, Store, TypedFunc, Val, WasmParams, WasmResults};

/// One call into a guest. Payloads are copied into a buffer that the guest allocates.
#[derive(Debug, Clone)]
pub enum GuestCall {
    /// Run the constructors.
    Initialize,
    /// Start the interpreter.
    Init,
    /// Define the agent from source text.
    Load(Bytes),
    /// Run the warm-up.
    Warm(Bytes),
    /// Handle a message.
    Message {
        /// Its number.
        request: i64,
        /// Its bytes.
        payload: Bytes,
    },
    /// What became of a call of the guest.
    Result {
        /// Its number.
        call: i64,
        /// 0 ok, 1 refused, 2 forked away, 3 restored.
        status: i32,
        /// The answer.
        payload: Bytes,
    },
    /// Run code in the live interpreter.
    Exec {
        /// The request's number.
        request: i64,
        /// The code.
        payload: Bytes,
    },
    /// The memory is another version's: 1 forked, 2 rolled back, 3 committed.
    Restored {
        /// Which.
        why: i32,
    },
    /// Any export, with the arguments that it takes; its first result, if that is an i32, else 0.
    Export {
        /// Its name.
        name: String,
        /// Its arguments.
        args: Vec<Val>,
    },
}

/// What a call needs of its instance besides the store.
pub(super) struct Callee<'a, H: Send + 'static> {
    pub(super) guest: wasmtime::Instance,
    pub(super) memory: Memory,
    pub(super) module: &'a CompiledModule<H>,
}

impl<H: Send + 'static> Callee<'_, H> {
    pub(super) async fn run(&self, store: &mut Store<H>, call: GuestCall) -> wasmtime::Result<i32> {
        match call {
            GuestCall::Initialize => {
                self.call::<(), ()>(store, Entry::Initialize, ()).await.map(|()| 0)
            }
            GuestCall::Init => self.call(store, Entry::Init, ()).await,
            GuestCall::Load(text) => {
                let at = self.place(store, &text).await?;
                self.call(store, Entry::Load, at).await
            }
            GuestCall::Warm(text) => {
                let at = self.place(store, &text).await?;
                self.call(store, Entry::Warm, at).await
            }
            GuestCall::Message { request, payload } => {
                let (ptr, len) = self.place(store, &payload).await?;
                self.call(store, Entry::Message, (request, ptr, len)).await
            }
            GuestCall::Result { call, status, payload } => {
                let (ptr, len) = self.place(store, &payload).await?;
                self.call(store, Entry::Result, (call, status, ptr, len)).await
            }
            GuestCall::Exec { request, payload } => {
                let (ptr, len) = self.place(store, &payload).await?;
                self.call(store, Entry::Exec, (request, ptr, len)).await
            }
            GuestCall::Restored { why } => {
                self.call::<(i32,), ()>(store, Entry::Restored, (why,)).await.map(|()| 0)
            }
            GuestCall::Export { name, args } => self.call_any(store, name, &args).await,
        }
    }

    async fn call<P, R>(&self, store: &mut Store<H>, entry: Entry, params: P) -> wasmtime::Result<R>
    where
        P: WasmParams + Sync,
        R: WasmResults + Sync,
    {
        let missing = || NoExport { name: entry.name().to_owned() };
        let export = self.module.entry(entry).ok_or_else(missing)?;
        let found = self.guest.get_module_export(&mut *store, export);
        let func = found.and_then(wasmtime::Extern::into_func).ok_or_else(missing)?;
        let func: TypedFunc<P, R> = func.typed(&*store)?;
        func.call_async(store, params).await
    }

    async fn call_any(
        &self,
        store: &mut Store<H>,
        name: String,
        args: &[Val],
    ) -> wasmtime::Result<i32> {
        let func = self.guest.get_func(&mut *store, &name).ok_or(NoExport { name })?;
        let mut results = vec![Val::I32(0); func.ty(&*store).results().len()];
        func.call_async(store, args, &mut results).await?;
        Ok(results.first().and_then(Val::i32).unwrap_or(0))
    }

    /// Copies bytes into a buffer of the guest: its address and length.
    async fn place(&self, store: &mut Store<H>, bytes: &[u8]) -> wasmtime::Result<(i32, i32)> {
        let no_room = NoRoom { len_bytes: bytes.len() };
        let len = i32::try_from(bytes.len()).map_err(|_| no_room)?;
        let ptr: i32 = self.call(store, Entry::Alloc, (len.max(1),)).await?;
        if ptr == 0 {
            return Err(no_room.into());
        }
        self.memory.write(&mut *store, ptr as u32 as usize, bytes)?;
        Ok((ptr, len))
    }
}
