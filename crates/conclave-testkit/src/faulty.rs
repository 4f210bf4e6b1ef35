//! A backend that fails when it is told to.

use conclave_order::{Backend, Cause, Change, Failure, Keys, Rows, Transaction};

/// Where the next transaction fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Before it begins.
    Begin,
    /// When rows are read.
    Load,
    /// When changes are written.
    Write,
    /// When they are written, for want of room.
    Full,
    /// When somebody else was faster.
    Conflict,
    /// When it is committed, and nothing took place.
    Commit,
    /// When it is committed, and nobody knows that it took place.
    UnknownDone,
    /// When it is committed, and nobody knows that it did not.
    UnknownUndone,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Begin,
        Self::Load,
        Self::Write,
        Self::Full,
        Self::Conflict,
        Self::Commit,
        Self::UnknownDone,
        Self::UnknownUndone,
    ];

    fn cause() -> Cause {
        "told to fail".into()
    }

    fn failure(self) -> Failure {
        match self {
            Self::Begin => Failure::NotBegun(Self::cause()),
            Self::Load | Self::Write | Self::Commit => Failure::Undone(Self::cause()),
            Self::Full => Failure::Full(Self::cause()),
            Self::Conflict => Failure::Conflict,
            Self::UnknownDone | Self::UnknownUndone => Failure::Unknown(Self::cause()),
        }
    }
}

/// A backend with faults to come.
#[derive(Debug)]
pub struct Faulty<B> {
    /// The backend.
    pub inner: B,
    /// Faults of the next transactions, the next one last.
    pub faults: Vec<Fault>,
}

/// A transaction on it.
pub struct FaultyTransaction<'a, B: Backend + 'a> {
    inner: B::Tx<'a>,
    fault: Option<Fault>,
}

impl<B: Backend> Backend for Faulty<B> {
    type Tx<'a>
        = FaultyTransaction<'a, B>
    where
        Self: 'a;

    async fn begin(&mut self) -> Result<Self::Tx<'_>, Failure> {
        let fault = self.faults.pop();
        if fault == Some(Fault::Begin) {
            return Err(Fault::Begin.failure());
        }
        let inner = self.inner.begin().await?;
        Ok(FaultyTransaction { inner, fault })
    }

    async fn recover(&mut self, after: &Failure) -> bool {
        self.inner.recover(after).await
    }
}

impl<B: Backend> FaultyTransaction<'_, B> {
    fn fail_at(&self, faults: &[Fault]) -> Result<(), Failure> {
        match self.fault {
            Some(fault) if faults.contains(&fault) => Err(fault.failure()),
            _ => Ok(()),
        }
    }
}

impl<B: Backend> Transaction for FaultyTransaction<'_, B> {
    async fn load(&mut self, keys: &Keys) -> Result<Rows, Failure> {
        self.fail_at(&[Fault::Load])?;
        self.inner.load(keys).await
    }

    async fn write(&mut self, changes: Vec<Change>) -> Result<(), Failure> {
        self.inner.write(changes).await?;
        self.fail_at(&[Fault::Write, Fault::Full, Fault::Conflict])
    }

    async fn commit(self) -> Result<(), Failure> {
        self.fail_at(&[Fault::Commit, Fault::UnknownUndone])?;
        let fault = self.fault;
        self.inner.commit().await?;
        match fault {
            Some(Fault::UnknownDone) => Err(Fault::UnknownDone.failure()),
            _ => Ok(()),
        }
    }
}
