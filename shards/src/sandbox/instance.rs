//! Instances: a guest running in a slot, called in slices.
//!
//! Owns: the shard's Wasm engine, the calls into guests, their slices, budgets and limits, globals.
//! Not: what a message means (`host.rs`), what of the memory has changed (`slot.rs`).
//! I1  a call that is paused holds its store; nothing else reaches it until the call ends.
//! I2  after a trap the memory is in any state: the caller goes back to a version or drops the
//!     instance. Dropping an instance frees everything, also while a call is paused.
//! I3  a slice ends at the second tick after its start at the latest: [`SLICE_MAX`].
//! I4  neither the engine nor an instance starts a thread; loading a compiled module starts none.

mod call;
mod config;
mod memory;
mod module;
mod stack;
mod tick;
mod trap;

pub use call::GuestCall;
pub use config::{STACK_BYTES, WASM_STACK_BYTES_MAX, engine_config};
pub use module::{CompiledModule, Entry};
pub use trap::{Exit, Trap};

use super::slot::{BaseImage, Lengths, PoolPlan, Slot, SlotError, SlotPool};
use call::Callee;
use memory::Lender;
use stack::Stacks;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tick::{TICK, Ticker, thread_cpu_ns};
use trap::OverBudget;
use wasmtime::{Engine, Memory, ResourceLimiter, Store, UpdateDeadline, V128, Val, ValType};

/// Longest slice.
pub const SLICE_MAX: Duration = Duration::from_millis(1);
/// Ticks in a slice: the first one comes somewhere within the first tick's length.
const SLICE_TICKS: u64 = (SLICE_MAX.as_micros() / TICK.as_micros()) as u64;
/// Ticks that a module's start function may take before it is cut off.
const START_TICKS_MAX: u64 = 2_000;
const WASM_PAGE: u64 = 65_536;

/// What a shard's sandboxes are made by.
#[derive(Debug, Clone, Copy, Default)]
pub struct SandboxPlan {
    /// The slots.
    pub pool: PoolPlan,
    /// Whether the engine has its compiler. Compiling uses threads, so a shard does not do it (I4);
    /// it has the compiler all the same, because cached modules are named by its settings.
    pub compiles: bool,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// No slot.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// No timer, so that no call could be interrupted.
    #[error("no timer to interrupt guests with: {0}; raise the limit of pending signals")]
    Timer(std::io::Error),
    /// The engine refused its settings.
    #[error("the Wasm engine does not start here: {0:#}")]
    Engine(wasmtime::Error),
    /// An import that the host lacks.
    #[error("the module cannot be linked: {0:#}")]
    Link(wasmtime::Error),
    /// The module could not be started.
    #[error("the module cannot be instantiated: {0:#}")]
    Instantiate(wasmtime::Error),
    /// Not exactly one exported memory.
    #[error("the module has {count} memories, or none exported as `memory`; it takes exactly one")]
    Memory {
        /// Its memories.
        count: u32,
    },
    /// A function of the guest ABI with another type.
    #[error("the module's {name} has another type than the host calls")]
    Signature {
        /// The export.
        name: String,
    },
    /// A global that cannot be captured.
    #[error("{name:?} is not an exported mutable global of a number")]
    Global {
        /// The export.
        name: String,
    },
    /// Bits of other globals.
    #[error("{words} words for globals that take {wanted}: an image of another module")]
    Globals {
        /// Given.
        words: usize,
        /// Taken.
        wanted: usize,
    },
}

/// A shard's engine, slots and timer. Stays on its thread.
#[derive(Debug)]
pub struct Sandboxes {
    engine: Engine,
    lender: Arc<Lender>,
    pool: Rc<SlotPool>,
    ticker: Rc<Ticker>,
}

impl Sandboxes {
    /// An engine with its timer and an empty pool, for the thread that calls this.
    /// Errors: no timer, a forced tracking that does not work; nothing is left behind.
    pub fn new(plan: SandboxPlan) -> Result<Sandboxes, InstanceError> {
        let lender = Arc::<Lender>::default();
        let mut config = engine_config();
        config.with_host_memory(Arc::new(memory::Creator(Arc::clone(&lender))));
        config.with_host_stack(Arc::new(stack::Creator(Arc::<Stacks>::default())));
        config.enable_compiler(plan.compiles);
        let engine = Engine::new(&config).map_err(InstanceError::Engine)?;
        let pool = SlotPool::new(plan.pool)?;
        let ticker = Rc::new(Ticker::new(&engine).map_err(InstanceError::Timer)?);
        Ok(Sandboxes { engine, lender, pool, ticker })
    }

    /// The engine, to load modules with.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The slots.
    pub fn pool(&self) -> &Rc<SlotPool> {
        &self.pool
    }
}

/// How far a slice got.
#[derive(Debug)]
pub enum Progress {
    /// The call has ended: the guest's answer, or why there is none.
    Done(Result<i32, Trap>),
    /// The slice is over; poll again after the others.
    Yielded,
}

/// What a call has used, shared with the callback of the epoch.
#[derive(Debug, Default)]
struct Budget {
    used_ns: AtomicU64,
    max_ns: AtomicU64,
    /// The thread's CPU time at the start of this slice; 0: not taken, because most calls end
    /// before it would be needed.
    began_ns: AtomicU64,
}

/// A store on loan to a call, and the call's outcome when it comes back.
type Call<H> = Pin<Box<dyn Future<Output = (Store<H>, wasmtime::Result<i32>)>>>;

enum State<H: 'static> {
    Idle(Store<H>),
    Paused(Call<H>),
    /// A host function panicked in the middle of a slice.
    Lost,
}

/// A guest in a slot.
pub struct Instance<H: Send + 'static> {
    // Declared before the slot, so that the memory's last user is gone when the slot ends.
    state: State<H>,
    guest: wasmtime::Instance,
    memory: Memory,
    module: Rc<CompiledModule<H>>,
    budget: Arc<Budget>,
    ticker: Rc<Ticker>,
    slot: Slot,
}

impl<H: Send + 'static> Instance<H> {
    /// An instance of `module` over `base`. Runs nothing of the guest but its start function.
    /// Errors: no slot, a memory shorter than the module's; nothing is left behind.
    pub fn new(
        sandboxes: &Sandboxes,
        module: &Rc<CompiledModule<H>>,
        base: &Arc<BaseImage>,
        lengths: Lengths,
        host: H,
    ) -> Result<Instance<H>, InstanceError> {
        let slot = Slot::new(&sandboxes.pool, base, lengths)?;
        let budget = Arc::<Budget>::default();
        let mut store = Store::new(&sandboxes.engine, host);
        store.set_epoch_deadline(START_TICKS_MAX);
        sandboxes.lender.prepare(Arc::clone(slot.extent()));
        let running = sandboxes.ticker.run();
        let guest = module.pre.instantiate(&mut store);
        drop(running);
        sandboxes.lender.clear();
        let guest = guest.map_err(InstanceError::Instantiate)?;
        store.limiter(|_| Box::leak(Box::new(FixedTables)));
        let spent = Arc::clone(&budget);
        store.epoch_deadline_callback(move |_| spent.slice_ends());
        let memory = guest
            .get_module_export(&mut store, &module.memory)
            .and_then(wasmtime::Extern::into_memory)
            .expect("C1: a memory was exported when the module was bound");
        Ok(Instance {
            state: State::Idle(store),
            guest,
            memory,
            module: Rc::clone(module),
            budget,
            ticker: Rc::clone(&sandboxes.ticker),
            slot,
        })
    }

    /// Whether a call is paused.
    pub fn is_paused(&self) -> bool {
        matches!(self.state, State::Paused(_))
    }

    /// The host's part of the sandbox. No call may be paused (I1).
    pub fn host(&self) -> &H {
        match &self.state {
            State::Idle(store) => store.data(),
            State::Paused(_) | State::Lost => panic!("I1: the host's state while a call has it"),
        }
    }

    /// The host's part of the sandbox. No call may be paused (I1).
    pub fn host_mut(&mut self) -> &mut H {
        self.store_mut().data_mut()
    }

    /// The slot. No call may be paused when its pages are captured or restored (I1).
    pub fn slot_mut(&mut self) -> &mut Slot {
        assert!(matches!(self.state, State::Idle(_)), "I1: the slot while a call runs in it");
        &mut self.slot
    }

    /// The slot, to look at.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// The module.
    pub fn module(&self) -> &Rc<CompiledModule<H>> {
        &self.module
    }

    /// Makes the memory `memory_bytes` long, as the guest's `memory.grow` would; the restoring of
    /// a longer image starts with it. Errors: shorter, past the limit; nothing changed.
    pub fn grow(&mut self, memory_bytes: usize) -> Result<(), SlotError> {
        let (old_bytes, max) = (self.slot.len_bytes(), self.slot.extent().max_bytes());
        let Some(more) = memory_bytes.checked_sub(old_bytes) else {
            return Err(SlotError::Shrink { len_bytes: memory_bytes, old_bytes });
        };
        let refused = SlotError::Length { len_bytes: memory_bytes, max };
        let wasm_pages = more as u64 / WASM_PAGE;
        if memory_bytes > max || !(more as u64).is_multiple_of(WASM_PAGE) {
            return Err(refused);
        }
        let memory = self.memory;
        let grown = memory.grow(self.store_mut(), wasm_pages);
        grown.map(drop).map_err(|_| refused)
    }

    /// Appends the bits of all globals, in the order they were named: one word each, two (low,
    /// high) for a vector.
    pub fn globals(&mut self, words: &mut Vec<u64>) {
        let (module, guest) = (Rc::clone(&self.module), self.guest);
        let store = self.store_mut();
        for slot in &module.globals {
            match global(store, guest, slot).get(&mut *store) {
                Val::I32(bits) => words.push(u64::from(bits as u32)),
                Val::I64(bits) => words.push(bits as u64),
                Val::F32(bits) => words.push(u64::from(bits)),
                Val::F64(bits) => words.push(bits),
                Val::V128(bits) => {
                    words.extend([bits.as_u128() as u64, (bits.as_u128() >> 64) as u64]);
                }
                other => unreachable!("C1: a global of {other:?}"),
            }
        }
    }

    /// Sets all globals to bits that [`Instance::globals`] gave for the same module.
    /// Errors: another number of words; nothing changed.
    pub fn set_globals(&mut self, words: &[u64]) -> Result<(), InstanceError> {
        let (module, guest) = (Rc::clone(&self.module), self.guest);
        if words.len() != module.global_words() {
            let wanted = module.global_words();
            return Err(InstanceError::Globals { words: words.len(), wanted });
        }
        let store = self.store_mut();
        let mut words = words.iter().copied();
        let mut next = || words.next().expect("C1: the words were counted");
        for slot in &module.globals {
            let value = match slot.ty {
                ValType::I32 => Val::I32(next() as u32 as i32),
                ValType::I64 => Val::I64(next() as i64),
                ValType::F32 => Val::F32(next() as u32),
                ValType::F64 => Val::F64(next()),
                ValType::V128 => {
                    let low = u128::from(next());
                    Val::V128(V128::from(low | u128::from(next()) << 64))
                }
                ref other => unreachable!("C1: a global of {other}"),
            };
            let set = global(store, guest, slot).set(&mut *store, value);
            set.expect("C1: a mutable global of this type");
        }
        Ok(())
    }

    /// Begins a call that may use `cpu_max` of CPU time; [`Instance::poll`] runs it. No other call
    /// may be paused (I1).
    pub fn start(&mut self, call: GuestCall, cpu_max: Duration) {
        let State::Idle(mut store) = std::mem::replace(&mut self.state, State::Lost) else {
            panic!("I1: a call began while another one was paused");
        };
        self.slot.extent().take_growth_refused();
        self.budget.used_ns.store(0, Ordering::Relaxed);
        self.budget.began_ns.store(0, Ordering::Relaxed);
        let max_ns = u64::try_from(cpu_max.as_nanos()).unwrap_or(u64::MAX);
        self.budget.max_ns.store(max_ns, Ordering::Relaxed);
        let (guest, memory, module) = (self.guest, self.memory, Rc::clone(&self.module));
        self.state = State::Paused(Box::pin(async move {
            store.set_epoch_deadline(SLICE_TICKS);
            let callee = Callee { guest, memory, module: &module };
            let answer = callee.run(&mut store, call).await;
            (store, answer)
        }));
    }

    /// Runs the call that was begun for one slice (I3).
    pub fn poll(&mut self) -> Progress {
        let State::Paused(mut call) = std::mem::replace(&mut self.state, State::Lost) else {
            panic!("I1: polled without a call");
        };
        if self.budget.used_ns.load(Ordering::Relaxed) > 0 {
            self.budget.began_ns.store(thread_cpu_ns(), Ordering::Relaxed);
        }
        let running = self.ticker.run();
        let polled = call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(running);
        match polled {
            Poll::Pending => {
                self.state = State::Paused(call);
                Progress::Yielded
            }
            Poll::Ready((store, answer)) => {
                self.state = State::Idle(store);
                let extent = self.slot.extent();
                let refused = extent.take_growth_refused();
                let pages = extent.len_bytes() as u64 / WASM_PAGE;
                Progress::Done(answer.map_err(|error| Trap::from_error(error, pages, refused)))
            }
        }
    }

    fn store_mut(&mut self) -> &mut Store<H> {
        match &mut self.state {
            State::Idle(store) => store,
            State::Paused(_) | State::Lost => panic!("I1: the store while a call has it"),
        }
    }
}

impl Budget {
    /// At an epoch's end: the slice is over, and perhaps the turn.
    fn slice_ends(&self) -> wasmtime::Result<UpdateDeadline> {
        let now_ns = thread_cpu_ns();
        // The first slice of a call is not measured from its start: it ran for a tick at least.
        let began_ns = match self.began_ns.load(Ordering::Relaxed) {
            0 => now_ns.saturating_sub(TICK.as_nanos() as u64),
            began_ns => began_ns,
        };
        let slice_ns = now_ns.saturating_sub(began_ns).max(1);
        let used_ns = self.used_ns.load(Ordering::Relaxed) + slice_ns;
        self.used_ns.store(used_ns, Ordering::Relaxed);
        if used_ns > self.max_ns.load(Ordering::Relaxed) {
            return Err(OverBudget { ms: used_ns / 1_000_000 }.into());
        }
        Ok(UpdateDeadline::Yield(SLICE_TICKS))
    }
}

/// Refuses every growth of a table: a table is no part of an image.
struct FixedTables;

impl ResourceLimiter for FixedTables {
    fn memory_growing(
        &mut self,
        _current: usize,
        _desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        _desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(false)
    }
}

fn global<H>(
    store: &mut Store<H>,
    guest: wasmtime::Instance,
    slot: &module::GlobalSlot,
) -> wasmtime::Global {
    let found = guest.get_module_export(store, &slot.export);
    found
        .and_then(wasmtime::Extern::into_global)
        .expect("C1: a global was exported when the module was bound")
}
